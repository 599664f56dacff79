//! Root filesystems for builder-svc: snapshots that steps run in and files are applied to, and that
//! become layers. Nothing of it shows as a container.
//!
//! Everything belongs to a lease (`lease`). A lease that is not renewed lapses, and what belongs to it is
//! taken back; after a restart of this service all leases have lapsed.

mod agent;
mod apply;
pub mod caches;
mod carry;
mod commit;
mod import;
mod lease;
mod mounts;
mod owner;
mod paths;
mod platforms;
mod quota;
mod read;
mod snapshot;
mod step;
mod stubs;
mod survey;

pub use agent::{Ask, LONGEST as LONGEST_AGENT_MESSAGE, QUESTIONS, Question};
pub use apply::{Target, apply};
pub use caches::{Caches, Sharing, Wanted};
pub use commit::Committed;
pub use import::Import;
pub use lease::{Attached, Leases, Limits, Told};
pub use mounts::{LARGEST_SECRET, Owner, StepMount, StepSource};
pub use owner::user_in;
pub use paths::{Found, expand, find as find_path};
pub use platforms::platforms;
pub use read::read_path;
pub use snapshot::{Snapshot, Worker};
pub use step::Step;
pub use survey::{Standing, Survey, survey};
