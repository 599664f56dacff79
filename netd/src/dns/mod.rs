//! Names: every network's gateway answers for the containers on it and forwards the rest.

mod answer;
mod resolver;
mod upstream;
mod zone;

pub use resolver::Resolver;
pub use upstream::ResolvConf;
pub use zone::Zone;
