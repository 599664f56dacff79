//! `search`: what the site's registry has.

use clap::Args;
use slipway_proto::registry::v1::{SearchRequest, search_response::Repository};

use crate::{
    cli::run::familiar_kept,
    client::Site,
    failure::{Failure, Outcome},
    output::{
        self, human,
        table::{self, Columns, Row},
    },
    spec::units,
};

/// docker shows so much of a description.
const SHOWN: usize = 45;

/// `ctl search`
#[derive(Debug, Args)]
pub struct Search {
    /// Filter output based on conditions provided
    #[arg(short, long)]
    filter: Vec<String>,
    /// Pretty-print search using a Go template
    #[arg(long)]
    format: Option<String>,
    /// Max number of search results
    #[arg(long, default_value = "0", allow_negative_numbers = true)]
    limit: i64,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    term: String,
}

impl Search {
    pub async fn run(self, site: &Site) -> Outcome {
        let outside = || {
            let limit = self.limit;
            Failure::new(format!("limit {limit} is outside the range of [1, 100]"))
        };
        let request = SearchRequest {
            limit: u32::try_from(self.limit).map_err(|_| outside())?,
            official: official(&self.filter)?,
            term: self.term,
        };
        let answer = site.registry().search(request).await?.into_inner();
        let format = self.format.as_deref();
        let json = format.is_some_and(|f| matches!(f.trim(), "json" | "{{json .}}"));
        let rows: Vec<Row> = answer
            .repositories
            .iter()
            .map(|found| row(found, self.no_trunc, json))
            .collect();
        output::print(&table::render(COLUMNS, &rows, format)?)?;
        Ok(0)
    }
}

/// What `is-official=` says. The others of docker's filters ask for what nothing here has.
fn official(filters: &[String]) -> Outcome<Option<bool>> {
    let mut wanted = None;
    for filter in units::filters(filters)? {
        match &*filter.key {
            "is-official" => {
                for value in &filter.values {
                    wanted = match value.as_str() {
                        "true" | "1" => Some(true),
                        "false" | "0" => Some(false),
                        _ => {
                            return Err(Failure::new(format!(
                                "invalid filter 'is-official={value}'"
                            )));
                        }
                    };
                }
            }
            "stars" | "is-automated" => {
                return Err(Failure::new(format!(
                    "filter {:?} has no meaning here: this site's own registry is searched, where nobody gives stars \
                     and nothing is built by Docker Hub",
                    filter.key
                )));
            }
            key => return Err(Failure::new(format!("invalid filter '{key}'"))),
        }
    }
    Ok(wanted)
}

const COLUMNS: Columns = Columns {
    shown: &[
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("StarCount", "STARS"),
        ("IsOfficial", "OFFICIAL"),
    ],
    hidden: &[("IsAutomated", "AUTOMATED")],
};

fn row(found: &Repository, whole: bool, json: bool) -> Row {
    // As docker's formatter: a truth is a word in JSON only.
    let truth = |value| match (value, json) {
        (true, true) => "true",
        (true, false) => "[OK]",
        (false, true) => "false",
        (false, false) => "",
    };
    let line = found.description.replace(['\n', '\r'], " ");
    Row::new([
        ("Name", familiar_kept(&found.name)),
        (
            "Description",
            match whole {
                true => line,
                false => human::ellipsis(&line, SHOWN),
            },
        ),
        ("StarCount", "0".to_owned()),
        ("IsOfficial", truth(found.official).to_owned()),
        ("IsAutomated", truth(false).to_owned()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_dockers() {
        let found = Repository {
            name: "docker.io/library/goals".to_owned(),
            description: format!("one\ntwo {}", "x".repeat(60)),
            official: true,
        };
        let show = |whole: bool, json: bool| {
            let format = json.then_some("json");
            table::render(COLUMNS, &[row(&found, whole, json)], format).unwrap()
        };
        assert_eq!(
            show(false, false),
            format!(
                "NAME      DESCRIPTION                                     STARS     OFFICIAL\n\
                 goals     one two {}…   0         [OK]\n",
                "x".repeat(36)
            )
        );
        assert!(show(true, false).contains(&"x".repeat(60)));
        assert!(show(true, true).contains(r#""IsOfficial":"true""#));
    }

    #[test]
    fn filters_without_meaning_are_refused() {
        let parse = |text: &str| official(&[text.to_owned()]);
        assert_eq!(parse("is-official=true").unwrap(), Some(true));
        for (text, why) in [
            ("stars=3", "no meaning"),
            ("is-automated=true", "no meaning"),
            ("colour=red", "invalid filter 'colour'"),
            ("is-official=so", "invalid filter 'is-official=so'"),
        ] {
            let error = parse(text).unwrap_err().text;
            assert!(error.contains(why), "{error}");
        }
    }
}
