//! System calls that no well-kept crate offers in the form that is needed: the only unsafe code of
//! this program.

pub mod asyncfd;
pub mod bpf;
pub mod capability;
pub mod ebpf;
pub mod fdpass;
pub mod fork;
pub mod heap;
pub mod keyring;
pub mod loopback;
pub mod mount_attr;
pub mod mountinfo;
pub mod namespaces;
pub mod prctl;
pub mod schedule;
pub mod signals;
pub mod terminal;
