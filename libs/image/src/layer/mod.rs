//! Layers: tar streams, packed reproducibly and unpacked confined.
//!
//! * [`tar_read`] and [`tar_write`]: the tar format, byte by byte, with limits;
//! * [`compression`]: which compression a stream has, and reading it;
//! * [`gzip`]: writing gzip on several processors;
//! * [`holes`]: files that are written with holes;
//! * [`limits`]: what is the most that a layer may be;
//! * [`unpack`]: a layer into a folder, as overlayfs wants it;
//! * [`pack`]: a folder, as overlayfs left it, into a layer;
//! * [`remove`]: away with a tree, however deep.

pub mod compression;
pub mod gzip;
pub mod holes;
pub mod limits;
pub mod pack;
pub mod remove;
pub mod tar_read;
pub mod tar_write;
pub mod unpack;

/// What an entry of a tar stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file; its size is that of the content.
    File,
    /// Another name for an earlier entry.
    HardLink(Vec<u8>),
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// A character device.
    CharacterDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A folder.
    Folder,
    /// A named pipe.
    Fifo,
}

/// Everything about an entry but its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name, as it stands in the stream.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since the epoch and nanoseconds.
    pub mtime: (i64, u32),
    /// Size of the content, bytes; files only.
    pub size: u64,
    /// Extended attributes, in order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// Bytes of content that stand behind its header.
    pub fn content_size(&self) -> u64 {
        match self.kind {
            Kind::File => self.size,
            _ => 0,
        }
    }
}

/// Prefix of a file that hides one of the same name below (OCI image-spec, layer.md, "Whiteouts").
pub const WHITEOUT: &[u8] = b".wh.";
/// A file that hides everything of its folder below.
pub const OPAQUE: &[u8] = b".wh..wh..opq";
/// overlayfs' mark of a folder that hides everything of the same folder below.
pub const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
