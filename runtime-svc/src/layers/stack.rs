//! The folders that overlayfs is given for an image.

use std::path::{Path, PathBuf};

use slipway_image::layer::OPAQUE_XATTR;

/// Those of these layers that show, top first as overlayfs wants them, each once: it takes no folder twice,
/// and the upper one of two hides the other anyway.
///
/// overlayfs does not look at the mark on a layer's own root (fs/overlayfs/super.c, ovl_get_root), so what is
/// below a layer that hides everything is left out here.
pub fn stack(top_first: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut stack: Vec<PathBuf> = Vec::new();
    for folder in top_first {
        if stack.contains(&folder) {
            continue;
        }
        let hides = hides_all_below(&folder);
        stack.push(folder);
        if hides {
            break;
        }
    }
    stack
}

fn hides_all_below(folder: &Path) -> bool {
    let mut value = [0; 1];
    match rustix::fs::getxattr(folder, OPAQUE_XATTR, &mut value) {
        Ok(n) => value[..n] == *b"y",
        // Not there, or longer than `y` and nothing of ours.
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_opaque_root_hides_is_left_out() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| root.path().join(name));
        for folder in [&a, &b, &c] {
            std::fs::create_dir(folder).unwrap();
        }
        let all = || [a.clone(), b.clone(), a.clone(), c.clone()];
        assert_eq!(stack(all()), [a.clone(), b.clone(), c.clone()]);
        rustix::fs::setxattr(&b, OPAQUE_XATTR, b"y", rustix::fs::XattrFlags::empty()).unwrap();
        assert_eq!(stack(all()), [a.clone(), b.clone()]);
    }
}
