//! Retention: what is taken away because nobody needs it any more, by rules of the site.
//!
//! [`rules`] are checked at the start; [`plan`] decides, as a pure function of what is here ([`content`]); what it
//! decided is done by [`Registry::retain`](crate::Registry::retain), which leaves alone what changed or was used
//! since, or is in somebody's hand.

pub mod content;
mod execute;
pub mod plan;
pub mod rules;
mod uses;

pub use execute::Retained;
pub use rules::Rules;
pub use uses::{RECENT, Uses};
