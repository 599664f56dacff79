//! Files that are written with holes where long stretches of zeros come.
//!
//! A tar stream of somebody else's seldom says where the holes of a file were; the stretches do. It is what
//! GNU cp does with `--sparse=always`, for stretches that are worth an extent of their own.

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom, Write},
};

/// A stretch of zeros of this length becomes a hole, where it begins at a multiple of it.
const STRETCH: usize = 32 << 10;

/// A new file that is being written from its beginning.
#[derive(Debug)]
pub struct WithHoles {
    file: File,
    position: u64,
    /// What was written last was left out.
    hole: bool,
}

impl WithHoles {
    /// An empty file.
    pub const fn new(file: File) -> Self {
        Self {
            file,
            position: 0,
            hole: false,
        }
    }

    /// Gives the file its length, of which a hole at its end would be no part.
    pub fn finish(self) -> io::Result<File> {
        if self.hole {
            self.file.set_len(self.position)?;
        }
        Ok(self.file)
    }
}

impl Write for WithHoles {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // How much of a stretch is before here.
        let begun = (self.position % STRETCH as u64) as usize;
        let (part, _) = bytes.split_at(bytes.len().min(STRETCH - begun));
        if part.len() == STRETCH && part.iter().all(|byte| *byte == 0) {
            self.hole = true;
        } else if !part.is_empty() {
            if std::mem::take(&mut self.hole) {
                self.file.seek(SeekFrom::Start(self.position))?;
            }
            self.file.write_all(part)?;
        }
        self.position += part.len() as u64;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn long_stretches_of_zeros_take_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut content = vec![0; 10 << 20];
        content[5 << 20] = 1;
        content[(7 << 20) + 3] = 2;
        let mut file = WithHoles::new(File::create(&path).unwrap());
        for piece in content.chunks(128 << 10) {
            file.write_all(piece).unwrap();
        }
        drop(file.finish().unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), content);
        let blocks = std::fs::metadata(&path).unwrap().blocks() * 512;
        assert!(blocks <= 1 << 20, "{blocks}");
    }

    proptest::proptest! {
        #[test]
        fn the_content_is_the_same(
            runs in proptest::collection::vec((0_u8..3, 0_usize..70_000), 0..12),
            piece in 1_usize..200_000,
        ) {
            let content: Vec<u8> = runs.iter().flat_map(|(byte, n)| std::iter::repeat_n(*byte, *n)).collect();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            let mut file = WithHoles::new(File::create(&path).unwrap());
            for piece in content.chunks(piece) {
                file.write_all(piece).unwrap();
            }
            drop(file.finish().unwrap());
            proptest::prop_assert!(std::fs::read(&path).unwrap() == content);
        }
    }
}
