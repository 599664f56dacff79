//! docker's option grammar to the contract's messages: pure functions, one file an option family.

pub mod changes;
pub mod env;
pub mod mount;
pub mod options;
pub mod pool;
pub mod port;
pub mod units;
