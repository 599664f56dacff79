//! How long a check waits for what cannot be read.

use std::time::{Duration, Instant};

use crate::{
    error::{Error, Result},
    ledger::Ledger,
};

/// How long all objects together may keep a check waiting that cannot be read: the client asks a server nine times
/// for each, which takes 7 s.
const ALL: Duration = Duration::from_secs(30);
/// How long each may when that is used up.
const EACH: Duration = Duration::from_secs(1);

/// Waits for what may never come, of a bucket: for the first ones as long as it takes, for many a short while each.
/// A file is read until the disk says what is with it.
pub enum Patience {
    /// As long as it takes.
    Endless,
    /// So long yet, all together.
    Left(Duration),
}

impl Patience {
    /// For a check that begins.
    pub fn with(ledger: &dyn Ledger) -> Self {
        match ledger.is_shared() {
            true => Self::Left(ALL),
            false => Self::Endless,
        }
    }

    /// Waits for an answer.
    pub async fn wait<T>(&mut self, read: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(most) = self.most() else {
            return read.await;
        };
        let began = Instant::now();
        let late = |_| {
            let seconds = most.as_secs_f64().ceil();
            Err(Error::Bucket(format!("no answer within {seconds} s")))
        };
        let answer = tokio::time::timeout(most, read).await.unwrap_or_else(late);
        if answer.is_err() {
            self.lose(began.elapsed());
        }
        answer
    }

    fn most(&self) -> Option<Duration> {
        match self {
            Self::Endless => None,
            Self::Left(left) => Some(EACH.max(*left)),
        }
    }

    fn lose(&mut self, time: Duration) {
        if let Self::Left(left) = self {
            *left = left.saturating_sub(time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_objects_that_do_not_answer_take_little_time() {
        let mut patience = Patience::Left(ALL);
        let (mut took, refused) = (Duration::ZERO, Duration::from_secs(7));
        for _ in 0..100 {
            let this = patience.most().unwrap().min(refused);
            patience.lose(this);
            took += this;
        }
        // Four were asked for nine times, one for as long as was left, the others for a moment.
        assert_eq!(took, ALL + 95 * EACH);
        // One that answers costs nothing, one that never does a moment.
        patience.wait(async { Ok(()) }).await.unwrap();
        let never = std::future::pending::<Result<()>>();
        let late = patience.wait(never).await.unwrap_err();
        assert!(late.to_string().ends_with("no answer within 1 s"), "{late}");
        let mut endless = Patience::Endless;
        endless.lose(ALL);
        assert_eq!(endless.most(), None);
    }

    #[tokio::test]
    async fn only_what_fails_uses_patience_up() {
        let mut patience = Patience::Left(ALL);
        let blocks = || std::thread::sleep(Duration::from_millis(2));
        let answers = async {
            blocks();
            Ok(())
        };
        patience.wait(answers).await.unwrap();
        assert_eq!(patience.most(), Some(ALL));
        let fails = async {
            blocks();
            Err::<(), _>(Error::Bucket("500".to_owned()))
        };
        patience.wait(fails).await.unwrap_err();
        assert!(patience.most().unwrap() < ALL);
    }
}
