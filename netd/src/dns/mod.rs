//! Names: every network's gateway answers for the containers on it and forwards the rest.

mod answer;
mod cache;
mod clients;
mod peers;
mod resolver;
mod upstream;
mod wire;
mod zone;

pub use resolver::{PORT, Resolver};
pub use upstream::ResolvConf;
pub use zone::Zone;
