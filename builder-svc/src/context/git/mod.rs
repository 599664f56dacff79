//! Git repositories as contexts and as sources of ADD.

mod reference;

pub use reference::GitSource;
