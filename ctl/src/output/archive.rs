//! An archive on its way to a file or to standard output.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
};

use crate::failure::{Failure, Outcome};

/// What an archive is written to. A file has its name when the archive is whole, as with docker (moby/sys,
/// atomicwriter); a device or a pipe is written as it is.
pub struct Archive {
    out: Box<dyn io::Write>,
    shown: String,
    /// Where the file is as long as it is not whole, and its name.
    part: Option<(PathBuf, PathBuf)>,
}

impl Archive {
    /// To a path, or else to standard output, which must be no terminal.
    pub fn to(path: Option<&str>) -> Outcome<Self> {
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            if io::stdout().is_terminal() {
                return Err(Failure::new(
                    "cowardly refusing to save to a terminal. Use the -o flag or redirect",
                ));
            }
            return Ok(Self {
                out: Box::new(io::stdout().lock()),
                shown: "the standard output".to_owned(),
                part: None,
            });
        };
        let failed = |e: io::Error| Failure::new(format!("cannot write {path}: {e}"));
        let special = fs::metadata(path).is_ok_and(|there| !there.is_file());
        if special {
            let file = fs::File::options().write(true).open(path).map_err(failed)?;
            return Ok(Self {
                out: Box::new(file),
                shown: path.to_owned(),
                part: None,
            });
        }
        // A link stays one.
        let name = fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
        let mut part = name.clone().into_os_string();
        part.push(format!(".part-{}", std::process::id()));
        let part = PathBuf::from(part);
        let file = fs::File::create_new(&part).map_err(failed)?;
        Ok(Self {
            out: Box::new(file),
            shown: path.to_owned(),
            part: Some((part, name)),
        })
    }

    /// The next bytes.
    pub fn write(&mut self, data: &[u8]) -> Outcome<()> {
        let written = self.out.write_all(data);
        written.map_err(|e| Failure::new(format!("cannot write {}: {e}", self.shown)))
    }

    /// That was all.
    pub fn finish(mut self) -> Outcome {
        let failed = |e: io::Error| Failure::new(format!("cannot write {}: {e}", self.shown));
        self.out.flush().map_err(failed)?;
        if let Some((part, name)) = &self.part {
            fs::rename(part, name).map_err(failed)?;
        }
        self.part = None;
        Ok(0)
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if let Some((part, _)) = &self.part {
            // Why it is not whole is told.
            let _ = fs::remove_file(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tar");
        fs::write(&path, "before").unwrap();
        let to = || Archive::to(path.to_str()).unwrap();
        let mut cut_off = to();
        cut_off.write(b"half").unwrap();
        drop(cut_off);
        assert_eq!(fs::read(&path).unwrap(), b"before");
        let mut whole = to();
        whole.write(b"whole").unwrap();
        whole.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = Archive::to(folder.path().to_str()).err().unwrap().text;
        assert!(error.contains("cannot write"), "{error}");
    }
}
