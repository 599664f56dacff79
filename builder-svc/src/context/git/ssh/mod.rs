//! git servers over ssh (RFC 4251 to 4254), without any program of the host's.
//!
//! `url` where a repository is, `hosts` who may be the host, `agent` who asks, `doorman` what a host may do to
//! us, `process` the connection and git-upload-pack at its other end.

mod agent;
mod doorman;
mod hosts;
mod process;
mod url;

pub use self::{agent::AGENT, hosts::Hosts, process::Process, url::SshUrl};
