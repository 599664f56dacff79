//! Lists: docker's columns, `--format` templates, `--format json` and `-q`.

use serde_json::{Map, Value};

use super::template::Template;
use crate::failure::Outcome;

/// A list's columns: key in templates, and heading. Those shown by default come first.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    pub shown: &'static [(&'static str, &'static str)],
    /// Known to templates and JSON only.
    pub hidden: &'static [(&'static str, &'static str)],
}

/// One line of a list.
#[derive(Debug, Clone, Default)]
pub struct Row {
    pub fields: Map<String, Value>,
    /// For `.Label "key"`.
    pub labels: Map<String, Value>,
}

impl Row {
    /// From pairs.
    pub fn new<const N: usize>(pairs: [(&str, String); N]) -> Self {
        let fields = pairs
            .into_iter()
            .map(|(k, v)| (k.to_owned(), Value::String(v)))
            .collect();
        Self {
            fields,
            labels: Map::new(),
        }
    }

    /// With labels, and docker's `Labels` field.
    #[must_use]
    pub fn with_labels(mut self, labels: &std::collections::HashMap<String, String>) -> Self {
        let sorted: std::collections::BTreeMap<_, _> = labels.iter().collect();
        let text = sorted
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect::<Vec<_>>()
            .join(",");
        self.fields.insert("Labels".to_owned(), text.into());
        self.labels = sorted
            .into_iter()
            .map(|(k, v)| (k.clone(), v.clone().into()))
            .collect();
        self
    }
}

/// The whole output.
pub fn render(columns: Columns, rows: &[Row], format: Option<&str>) -> Outcome<String> {
    let format = format.map(str::trim).filter(|f| !f.is_empty());
    match format {
        None | Some("table") => {
            let head: Vec<_> = columns
                .shown
                .iter()
                .map(|(_, head)| (*head).to_owned())
                .collect();
            let mut lines = vec![head];
            for row in rows {
                lines.push(
                    columns
                        .shown
                        .iter()
                        .map(|(key, _)| text_of(row, key))
                        .collect(),
                );
            }
            Ok(align(&lines))
        }
        Some("json" | "{{json .}}") => {
            let mut out = String::new();
            for row in rows {
                out.push_str(&Value::Object(row.fields.clone()).to_string());
                out.push('\n');
            }
            Ok(out)
        }
        Some(text) => {
            let (table, text) = match text.strip_prefix("table ") {
                Some(rest) => (true, rest.trim_start()),
                None => (false, text),
            };
            // docker lets people write \t and \n in the shell's single quotes.
            let text = text.replace("\\t", "\t").replace("\\n", "\n");
            let template = Template::parse(&text)?;
            let mut lines = Vec::new();
            if table {
                let heads = columns
                    .shown
                    .iter()
                    .chain(columns.hidden)
                    .map(|(key, head)| ((*key).to_owned(), Value::from(*head)))
                    .collect();
                lines.push(template.render_headings(heads)?);
            }
            for row in rows {
                lines.push(template.render(&Value::Object(row.fields.clone()), &row.labels)?);
            }
            if table {
                let cells: Vec<Vec<String>> = lines
                    .iter()
                    .map(|line| line.split('\t').map(str::to_owned).collect())
                    .collect();
                return Ok(align(&cells));
            }
            Ok(lines.iter().map(|line| format!("{line}\n")).collect())
        }
    }
}

fn text_of(row: &Row, key: &str) -> String {
    match row.fields.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// docker's tab writer: columns ten wide at least, three blanks between them, the last one not padded.
pub fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        (widest + 3).max(10)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for line in lines {
        for (column, cell) in line.iter().enumerate() {
            out.push_str(cell);
            if column + 1 < line.len() {
                let blanks = widths[column] - cell.chars().count();
                out.extend(std::iter::repeat_n(' ', blanks));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: Columns = Columns {
        shown: &[("ID", "CONTAINER ID"), ("Names", "NAMES")],
        hidden: &[("Labels", "LABELS")],
    };

    fn rows() -> Vec<Row> {
        let labels = [("a".to_owned(), "1,2".to_owned())].into();
        vec![
            Row::new([("ID", "0123".into()), ("Names", "web".into())]).with_labels(&labels),
            Row::new([("ID", "4567".into()), ("Names", "db".into())])
                .with_labels(&Default::default()),
        ]
    }

    #[test]
    fn columns_line_up() {
        let text = render(COLUMNS, &rows(), None).unwrap();
        assert_eq!(
            text,
            "CONTAINER ID   NAMES\n0123           web\n4567           db\n"
        );
    }

    #[test]
    fn templates_tables_and_json() {
        let with = |format| render(COLUMNS, &rows(), Some(format)).unwrap();
        assert_eq!(with("{{.Names}}"), "web\ndb\n");
        assert_eq!(with("{{.Label \"a\"}}"), "1,2\n\n");
        assert_eq!(
            with("table {{.Names}}\\t{{.ID}}"),
            "NAMES     CONTAINER ID\nweb       0123\ndb        4567\n"
        );
        assert_eq!(
            with("json").lines().next().unwrap(),
            r#"{"ID":"0123","Labels":"a=1,2","Names":"web"}"#
        );
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        let error = render(COLUMNS, &rows(), Some("{{.Nope}}")).unwrap_err();
        assert!(error.text.contains("Nope"), "{}", error.text);
    }
}
