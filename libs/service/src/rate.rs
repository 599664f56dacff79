//! So many of a kind in so much time, and how many more there were.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lets `most` through in each stretch of time, beginning with the first, and counts what it does not.
#[derive(Debug)]
pub struct Rate {
    most: u64,
    stretch: Duration,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    since: Option<Instant>,
    let_through: u64,
    left_out: u64,
}

impl Rate {
    /// Of which nothing was used yet.
    pub fn new(most: u64, stretch: Duration) -> Self {
        Self {
            most,
            stretch,
            now: Mutex::default(),
        }
    }

    /// Whether there is room for one more at this moment; it is counted either way.
    pub fn admits(&self, at: Instant) -> bool {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since.is_none_or(|since| at - since >= self.stretch) {
            (now.since, now.let_through) = (Some(at), 0);
        }
        let admitted = now.let_through < self.most;
        match admitted {
            true => now.let_through += 1,
            false => now.left_out += 1,
        }
        admitted
    }

    /// How many were left out since this was asked last.
    pub fn left_out(&self) -> u64 {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut now.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_so_much_time_and_the_others_are_counted() {
        let rate = Rate::new(2, Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let admitted = [0, 1, 2, 9].map(|seconds| rate.admits(at(seconds)));
        assert_eq!(admitted, [true, true, false, false]);
        assert!(rate.admits(at(10)));
        assert_eq!((rate.left_out(), rate.left_out()), (2, 0));
        assert!(rate.admits(at(19)));
        assert!(!rate.admits(at(19)));
        assert_eq!(rate.left_out(), 1);
    }
}
