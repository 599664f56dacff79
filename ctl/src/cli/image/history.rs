//! `history`.

use clap::Args;
use slipway_proto::registry::v1::InspectImageRequest;

use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output::{
        self,
        human::{self, short_id},
        table::{self, Columns, Row},
    },
    spec::options::platform,
};

/// `ctl history`
#[derive(Debug, Args)]
pub struct History {
    /// Print sizes and dates in human readable format
    #[arg(short = 'H', long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    human: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Show history for the given platform. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
    #[arg(long)]
    platform: Option<String>,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    /// Format output using a custom template
    #[arg(long)]
    format: Option<String>,
    image: String,
}

impl History {
    pub async fn run(self, site: &Site) -> Outcome {
        let (readable, whole) = (self.human, self.no_trunc);
        let answer = site
            .registry()
            .inspect_image(InspectImageRequest {
                image: self.image,
                platform: self.platform.as_deref().map(platform).transpose()?,
            })
            .await?
            .into_inner();
        let resolved = answer.resolved.unwrap_or_default();
        let config = slipway_image::ImageConfig::parse(&resolved.config_json)
            .map_err(|e| Failure::new(format!("the image's config is not JSON: {e}")))?;
        let mut layers = resolved.layers.iter();
        let mut rows = Vec::new();
        for line in &config.history {
            // Compressed sizes: what the registry holds.
            let size = if line.empty_layer {
                0
            } else {
                layers.next().map_or(0, |l| l.size)
            };
            let at = line
                .created
                .as_deref()
                .and_then(|t| t.parse::<jiff::Timestamp>().ok());
            let stamp = at.map(|t| prost_types::Timestamp {
                seconds: t.as_second(),
                nanos: 0,
            });
            let by = line
                .created_by
                .clone()
                .unwrap_or_default()
                .replace('\t', " ");
            rows.push(Row::new([
                ("ID", "<missing>".to_owned()),
                (
                    "CreatedSince",
                    if readable {
                        human::ago(stamp.as_ref())
                    } else {
                        human::rfc3339(stamp.as_ref())
                    },
                ),
                ("CreatedAt", human::rfc3339(stamp.as_ref())),
                (
                    "CreatedBy",
                    if whole { by } else { human::ellipsis(&by, 45) },
                ),
                (
                    "Size",
                    if readable {
                        human::size(size)
                    } else {
                        size.to_string()
                    },
                ),
                ("Comment", line.comment.clone().unwrap_or_default()),
            ]));
        }
        rows.reverse();
        let id = if whole {
            resolved.image_id.clone()
        } else {
            short_id(&resolved.image_id).to_owned()
        };
        if let Some(first) = rows.first_mut() {
            first.fields.insert("ID".to_owned(), id.into());
        }
        if self.quiet {
            let ids = rows
                .iter()
                .filter_map(|r| r.fields.get("ID").and_then(|v| v.as_str()));
            output::print(&ids.map(|id| format!("{id}\n")).collect::<String>())?;
            return Ok(0);
        }
        let columns = Columns {
            shown: &[
                ("ID", "IMAGE"),
                ("CreatedSince", "CREATED"),
                ("CreatedBy", "CREATED BY"),
                ("Size", "SIZE"),
                ("Comment", "COMMENT"),
            ],
            hidden: &[("CreatedAt", "CREATED AT")],
        };
        output::print(&table::render(columns, &rows, self.format.as_deref())?)?;
        Ok(0)
    }
}
