//! The page.

use std::time::Duration;

/// What the page tells.
#[derive(Debug)]
pub struct Facts {
    pub host: String,
    pub target: String,
    pub client: String,
    pub uptime: Duration,
}

/// The page as HTML.
pub fn html(facts: &Facts) -> String {
    let Facts {
        host,
        target,
        client,
        uptime,
    } = facts;
    let (host, target, client) = (escape(host), escape(target), escape(client));
    let uptime = spell(*uptime);
    format!(
        r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Slipway demo on {host}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem; color: #1d2733; background: #f5f7f9 }}
main {{ background: #fff; border-radius: 12px; padding: 2rem; box-shadow: 0 2px 12px #0002 }}
h1 {{ margin-top: 0; color: #0b6e99 }}
dt {{ font-weight: 600 }} dd {{ margin: 0 0 .6rem }}
code, pre {{ background: #eef2f5; border-radius: 4px; padding: .1rem .3rem }} pre {{ padding: .8rem; overflow-x: auto }}
</style>
<main>
<h1>It works</h1>
<p>This page comes from a container that Slipway built from a Dockerfile and runs.</p>
<dl>
<dt>Host name</dt><dd><code>{host}</code></dd>
<dt>You asked for</dt><dd><code>{target}</code></dd>
<dt>You are</dt><dd><code>{client}</code></dd>
<dt>Up for</dt><dd>{uptime}</dd>
</dl>
<p>What to try next:</p>
<pre>ctl ps
ctl logs -f demo
ctl inspect demo
ctl stop demo</pre>
</main>
</html>
"#
    )
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn spell(uptime: Duration) -> String {
    let seconds = uptime.as_secs();
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{:.1} s", uptime.as_secs_f64()),
        (0, 0, m) => format!("{m} min {} s", seconds % 60),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_asked_becomes_markup() {
        let facts = Facts {
            host: "box".into(),
            target: "/<script>'\"&".into(),
            client: "::1".into(),
            uptime: Duration::ZERO,
        };
        let html = html(&facts);
        assert!(html.contains("/&lt;script&gt;&#39;&quot;&amp;"), "{html}");
        assert!(!html.contains("<script"), "{html}");
    }

    #[test]
    fn uptime_is_spelled_in_two_units() {
        for (seconds, expected) in [
            (3, "3.0 s"),
            (61, "1 min 1 s"),
            (3660, "1 h 1 min"),
            (90000, "1 d 1 h"),
        ] {
            assert_eq!(spell(Duration::from_secs(seconds)), expected);
        }
    }
}
