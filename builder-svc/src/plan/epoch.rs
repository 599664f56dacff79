//! The time of a reproducible build (reproducible-builds.org/specs/source-date-epoch).

use slipway_dockerfile::Dockerfile;

use super::{Options, variables};
use crate::error::{Error, Result};

/// The argument that says it.
pub const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Seconds since 1970 that `--build-arg SOURCE_DATE_EPOCH`, or an ARG of that name in front of the first FROM,
/// says. An empty value is none, as in BuildKit.
///
/// # Errors
/// Anything else, also what names a context or a stage to take the time from.
pub fn epoch(file: &Dockerfile, options: &Options) -> Result<Option<i64>> {
    let global = variables::global(file, options)?;
    let given = options.build_args.get(EPOCH).or_else(|| global.get(EPOCH));
    match given.map(String::as_str) {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            Error::Invalid(format!(
                "{EPOCH}={text} is not a time in seconds: that of a context or stage is not supported"
            ))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, given: Option<&str>) -> Result<Option<i64>> {
        let file = Dockerfile::parse("Dockerfile", text.as_bytes()).unwrap();
        let given = given.map(|value| (EPOCH.to_owned(), value.to_owned()));
        let options = Options {
            build_args: given.into_iter().collect(),
            ..Options::default()
        };
        epoch(&file, &options)
    }

    #[test]
    fn an_argument_says_it_and_the_callers_wins() {
        let file = "ARG DAY=86400\nARG SOURCE_DATE_EPOCH=$DAY\nFROM a\n";
        assert_eq!(said(file, None).unwrap(), Some(86_400));
        assert_eq!(said(file, Some("5")).unwrap(), Some(5));
        assert_eq!(said(file, Some("")).unwrap(), None);
        assert_eq!(said("FROM a\n", Some("5")).unwrap(), Some(5));
        // That of a stage is a variable of the stage.
        assert_eq!(
            said("FROM a\nARG SOURCE_DATE_EPOCH=1\n", None).unwrap(),
            None
        );
        let error = said("FROM a\n", Some("context")).unwrap_err().to_string();
        assert!(error.contains("not supported"), "{error}");
    }
}
