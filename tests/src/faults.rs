//! Fault points of a site's programs, armed and asked about.

use std::path::PathBuf;

use slipway_fault::Action;

use crate::Site;

impl Site {
    /// From now on services that are started have their fault points.
    pub fn allow_faults(&self) {
        std::fs::create_dir_all(self.path("faults")).unwrap();
    }

    pub(crate) fn faults(&self) -> Option<PathBuf> {
        Some(self.path("faults")).filter(|folder| folder.is_dir())
    }

    /// Has the next process that comes by a point do this.
    pub fn arm(&self, point: &str, action: Action) {
        let file = self.path("faults").join(point);
        let temporary = file.with_extension("arming");
        std::fs::write(&temporary, action.to_string()).unwrap();
        std::fs::rename(temporary, file).unwrap();
    }

    /// Whether somebody came by a point since it was armed.
    pub fn fired(&self, point: &str) -> bool {
        self.fired_file(point).exists()
    }

    /// Takes the traces of a point away; who waits there goes on. Says whether somebody came by.
    pub fn disarm(&self, point: &str) -> bool {
        // It is there or it has fired.
        let _ = std::fs::remove_file(self.path("faults").join(point));
        std::fs::remove_file(self.fired_file(point)).is_ok()
    }

    fn fired_file(&self, point: &str) -> PathBuf {
        self.path("faults").join(format!("{point}.fired"))
    }
}
