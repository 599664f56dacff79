//! Builds Dockerfiles into images. Not written yet: every build is refused with a sentence.

pub mod grpc;
