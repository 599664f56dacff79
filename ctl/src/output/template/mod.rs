//! Go templates for `--format`, as far as docker's users need them.

mod eval;
mod lex;
mod parse;

use serde_json::{Map, Value};

use crate::failure::{Failure, Outcome};

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template {
    nodes: Vec<parse::Node>,
}

impl Template {
    /// Parses, or says what docker's lists say.
    pub fn parse(text: &str) -> Outcome<Self> {
        let nodes = lex::split(text)
            .and_then(|pieces| parse::parse(&pieces))
            .map_err(|why| {
                Failure::new(format!("failed to parse template: template: :1: {why}"))
            })?;
        Ok(Self { nodes })
    }

    /// Renders for a value; `labels` answers `.Label "key"`.
    pub fn render(&self, value: &Value, labels: &Map<String, Value>) -> Outcome<String> {
        eval::render(&self.nodes, value, eval::Mode::Row(labels)).map_err(explain)
    }

    /// Renders the heading of a table: functions leave headings as they are.
    pub fn render_headings(&self, heads: Map<String, Value>) -> Outcome<String> {
        eval::render(&self.nodes, &Value::Object(heads), eval::Mode::Headings).map_err(explain)
    }
}

fn explain(why: String) -> Failure {
    Failure::new(format!(
        "failed to execute template: template: :1: executing \"\" {why}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(template: &str) -> String {
        let value = serde_json::json!({
            "Name": "/web", "State": {"Running": true, "Pid": 7}, "Args": ["-g", "daemon off;"],
            "Labels": {"b.c": "2", "a": "1"}, "Empty": [], "Null": null,
        });
        Template::parse(template)
            .and_then(|t| t.render(&value, &Map::new()))
            .unwrap_or_else(|e| format!("! {}", e.text))
    }

    #[test]
    fn what_docker_users_write() {
        for (template, text) in [
            ("{{.Name}}", "/web"),
            ("{{ .State.Pid }}!", "7!"),
            ("{{json .State}}", r#"{"Pid":7,"Running":true}"#),
            ("{{.Args}}", "[-g daemon off;]"),
            ("{{.Labels}}", "map[a:1 b.c:2]"),
            ("{{join .Args \", \"}}", "-g, daemon off;"),
            ("{{.Name | upper}}", "/WEB"),
            ("{{lower \"ABC\"}}{{title \"abc\"}}", "abcAbc"),
            ("{{index .Labels \"b.c\"}}{{index .Args 1}}", "2daemon off;"),
            ("{{index .Labels \"none\"}}", ""),
            ("{{len .Args}}", "2"),
            ("{{range .Args}}<{{.}}>{{end}}", "<-g><daemon off;>"),
            (
                "{{range $i, $a := .Args}}{{$i}}={{$a}};{{end}}",
                "0=-g;1=daemon off;;",
            ),
            (
                "{{range $k, $v := .Labels}}{{$k}}={{$v}} {{end}}",
                "a=1 b.c=2 ",
            ),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            (
                "{{if eq .State.Pid 8}}a{{else if ne .Name \"x\"}}b{{end}}",
                "b",
            ),
            ("{{with .State}}{{.Pid}}{{end}}", "7"),
            ("{{$p := .State.Pid}}{{$p}}", "7"),
            ("{{index (split .Name \"w\") 1}}", "eb"),
            ("{{truncate .Name 2}}", "/w"),
            ("a {{- .Name -}} b", "a/webb"),
            ("{{/* nothing */}}x", "x"),
            ("{{println .Name}}", "/web\n"),
            ("{{printf \"%s-%d\" .Name 3}}", "/web-3"),
            ("{{(index .Args 0)}}", "-g"),
            ("{{and .State.Running (not .Empty)}}", "true"),
            ("{{slice .Name 1 3}}", "we"),
            ("{{.Null}}", "<no value>"),
            ("{{`raw`}}", "raw"),
        ] {
            assert_eq!(show(template), text, "{template}");
        }
    }

    #[test]
    fn bad_templates_are_explained() {
        for (template, text) in [
            ("{{.Name", "unclosed action"),
            ("{{if .Name}}", "unexpected EOF"),
            ("{{end}}", "unexpected {{end}}"),
            ("{{nope .Name}}", "function \"nope\" not defined"),
            ("{{.Nope}}", "no entry for key \"Nope\""),
            ("{{\"abc}}", "unterminated quoted string"),
            ("{{.Name.Deeper}}", "can't evaluate field Deeper"),
            ("{{index .Args 9}}", "index out of range"),
            ("{{}}", "missing value for command"),
        ] {
            assert!(
                show(template).contains(text),
                "{template}: {}",
                show(template)
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[{}.a-z\"$|() :=]{0,24}") {
            let _ = show(&text);
        }
    }
}
