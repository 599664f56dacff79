//! What a caller was told of what somebody cut off.

use slipway_fault::inventory::Point;
use slipway_tests::Said;
use tonic::Status;

/// What a caller knows.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// It is done, and stays done. With what it printed.
    Done(String),
    /// A program was run and ended so, with this output.
    Ended(i32, String),
    /// It was not done, and nothing of it is left.
    Refused(String),
    /// The answer was lost: it was done or it was not, but not half of it.
    Unknown,
}

/// What was cut off, and what its caller was told.
pub struct Cut<'a> {
    pub point: &'a Point,
    pub told: &'a Told,
}

impl Told {
    /// By ctl.
    pub fn by(said: &Said) -> Self {
        let error = said.err.lines().find_map(|l| l.strip_prefix("Error: "));
        match error {
            None if said.code == 0 => Self::Done(said.out.trim_end().to_owned()),
            None => Self::Ended(said.code, said.out.clone()),
            Some(error) if error.contains("the service went away before it answered") => {
                Self::Unknown
            }
            Some(error) => Self::Refused(error.to_owned()),
        }
    }

    /// By a call.
    pub fn by_call(answer: &Result<String, Status>) -> Self {
        match answer {
            Ok(text) => Self::Done(text.clone()),
            // A service that refuses says why; of a connection that broke there is only that it did.
            Err(status) => match slipway_service::error::reason(status).as_str() {
                "" => Self::Unknown,
                reason => Self::Refused(format!("{reason}: {}", status.message())),
            },
        }
    }

    /// What was promised is there and what was refused is not.
    #[track_caller]
    pub fn agrees_with(&self, is_done: bool) {
        match self {
            Self::Done(_) | Self::Ended(..) => {
                assert!(is_done, "it was said to be done, and is not")
            }
            Self::Refused(why) => assert!(!is_done, "it was refused ({why}), and is done"),
            Self::Unknown => {}
        }
    }
}
