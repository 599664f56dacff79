//! What is left as steps are taken.

use super::super::content::Content;

/// See the module's page.
#[derive(Clone)]
pub struct State<'a> {
    content: &'a Content,
    /// Of each manifest: it is still here.
    pub alive: Vec<bool>,
    /// Its tags.
    pub tags: Vec<usize>,
    /// The indexes that name it.
    pub parents: Vec<usize>,
    /// Of each blob.
    holders: Vec<usize>,
    /// Of each part.
    blobs: Vec<usize>,
}

impl<'a> State<'a> {
    /// Everything.
    pub fn new(content: &'a Content) -> Self {
        let manifests = || content.manifests.iter();
        Self {
            content,
            alive: vec![true; content.manifests.len()],
            tags: manifests().map(|m| m.tags.len()).collect(),
            parents: manifests().map(|m| m.parents).collect(),
            holders: content.blobs.iter().map(|b| b.holders).collect(),
            blobs: content.parts.iter().map(|p| p.blobs).collect(),
        }
    }

    /// Removes a manifest, and of what it names what nothing else does, as
    /// [`crate::Registry::remove_manifest`]. Returns the bytes that become free.
    pub fn remove(&mut self, top: usize) -> u64 {
        let (mut freed, mut left) = (0, vec![top]);
        while let Some(number) = left.pop() {
            if !std::mem::take(&mut self.alive[number]) {
                continue;
            }
            let manifest = &self.content.manifests[number];
            freed += manifest.blobs.iter().map(|b| self.let_go(*b)).sum::<u64>();
            for &child in &manifest.children {
                self.parents[child] -= 1;
                let orphan = self.parents[child] == 0 && self.tags[child] == 0;
                if orphan && !self.content.manifests[child].by_digest {
                    left.push(child);
                }
            }
        }
        freed
    }

    fn let_go(&mut self, blob: usize) -> u64 {
        self.holders[blob] -= 1;
        if self.holders[blob] > 0 {
            return 0;
        }
        let it = &self.content.blobs[blob];
        let mut freed = it.disk;
        for &part in &it.parts {
            self.blobs[part] -= 1;
            if self.blobs[part] == 0 {
                freed += self.content.parts[part].disk;
            }
        }
        freed
    }
}
