//! docker's JSON of an image.

use serde_json::{Value, json};
use slipway_proto::registry::v1::InspectImageResponse;

use crate::{cli::run::familiar_kept, output::human};

pub fn json(answer: &InspectImageResponse) -> Value {
    let summary = answer.summary.clone().unwrap_or_default();
    let resolved = answer.resolved.clone().unwrap_or_default();
    // The config is what the image's author wrote: shown as it is, only completed.
    let config: Value = serde_json::from_slice(&resolved.config_json).unwrap_or(Value::Null);
    let text = |key: &str| config.get(key).cloned().unwrap_or_else(|| "".into());
    let names = |list: &[String]| list.iter().map(|n| familiar_kept(n)).collect::<Vec<_>>();
    let mut value = json!({
        "Id": resolved.image_id,
        "RepoTags": names(&summary.repo_tags),
        "RepoDigests": names(&summary.repo_digests),
        "Parent": summary.parent_id,
        "Comment": comment(&config),
        "Created": config.get("created").cloned().unwrap_or_else(|| human::rfc3339(summary.created.as_ref()).into()),
        "DockerVersion": "",
        "Author": text("author"),
        "Config": config.get("config").cloned().unwrap_or(Value::Null),
        "Architecture": text("architecture"),
        "Os": text("os"),
        "Size": if summary.unpacked_size > 0 { summary.unpacked_size } else { summary.size },
        "GraphDriver": {"Data": {}, "Name": "overlay2"},
        "RootFS": {"Type": "layers", "Layers": resolved.diff_ids},
        "Metadata": {"LastTagTime": human::rfc3339(answer.last_tagged.as_ref())},
    });
    if let Some(variant) = config.get("variant") {
        value["Variant"] = variant.clone();
    }
    value
}

/// The image's own, or that of the last step of its history, as docker (moby, daemon/images/image_inspect.go).
fn comment(config: &Value) -> &str {
    let own = config["comment"].as_str().filter(|own| !own.is_empty());
    let last = || config["history"].as_array()?.last()?["comment"].as_str();
    own.or_else(last).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_the_images_or_of_its_last_step() {
        for (config, expected) in [
            (
                json!({"comment": "own", "history": [{"comment": "last"}]}),
                "own",
            ),
            (
                json!({"comment": "", "history": [{"comment": "x"}, {"comment": "last"}]}),
                "last",
            ),
            (json!({"history": [{}]}), ""),
            (Value::Null, ""),
        ] {
            assert_eq!(comment(&config), expected, "{config}");
        }
    }
}
