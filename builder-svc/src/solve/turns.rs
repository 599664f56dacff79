//! The same step asked for by several builds at once runs once: each waits for its turn by key, and who
//! comes second finds the record of who came first. When the first fails or is cancelled, the next does it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{Mutex as Lock, OwnedMutexGuard};

use crate::{
    cache::Key,
    events::{Audience, Event, Events, Step},
};

/// Whose turn it is. One per service.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<Key, Weak<Place>>>);

/// A step that is being done.
#[derive(Debug, Default)]
struct Place {
    lock: Arc<Lock<()>>,
    audience: Arc<Audience>,
}

/// Who has it does the step; the next one's turn comes when it is dropped.
pub struct Turn {
    _guard: OwnedMutexGuard<()>,
    place: Arc<Place>,
}

impl Turn {
    /// Those who wait for the next turn.
    pub fn audience(&self) -> Arc<Audience> {
        self.place.audience.clone()
    }
}

impl Turns {
    /// Waits until nobody else does the step of this key. Who waits is told so, and hears what the one
    /// who does it tells its audience.
    pub async fn wait(&self, key: &Key, events: &Events, step: &Step) -> Turn {
        let place = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, place| place.strong_count() > 0);
            match all.get(key).and_then(Weak::upgrade) {
                Some(place) => place,
                None => {
                    let place = Arc::new(Place::default());
                    all.insert(key.clone(), Arc::downgrade(&place));
                    place
                }
            }
        };
        let guard = match place.lock.clone().try_lock_owned() {
            Ok(guard) => guard,
            Err(_) => {
                let data = "another build or platform does this step, and this one waits for it\n";
                let waits = Event::Log {
                    index: step.index,
                    stderr: true,
                    data: data.into(),
                };
                events.tell(Event::Step(step.clone())).await;
                events.tell(waits).await;
                let _listening = place.audience.join(events, step.index);
                place.lock.clone().lock_owned().await
            }
        };
        Turn {
            _guard: guard,
            place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::KeyBuilder;

    #[tokio::test]
    async fn one_after_the_other_by_key() {
        let turns = Turns::default();
        let (a, b) = (KeyBuilder::new("a").finish(), KeyBuilder::new("b").finish());
        let (sender, mut told) = tokio::sync::mpsc::channel(8);
        let events = Events::new(sender);
        let log = |index, data: &'static str| Event::Log {
            index,
            stderr: true,
            data: data.into(),
        };
        let step = |index| Step {
            index,
            name: String::new(),
            state: crate::events::State::Started,
            started: std::time::SystemTime::now(),
        };
        let third = step(3);
        let (one, two) = (step(1), step(2));
        let first = turns.wait(&a, &events, &one).await;
        let _other = turns.wait(&b, &events, &two).await;
        assert!(told.try_recv().is_err(), "nobody waited");
        let mut second = Box::pin(turns.wait(&a, &events, &third));
        tokio::select! {
            biased;
            _ = &mut second => panic!("it is not its turn"),
            () = std::future::ready(()) => {}
        }
        assert!(matches!(told.try_recv(), Ok(Event::Step(_))));
        assert!(matches!(told.try_recv(), Ok(Event::Log { index: 3, .. })));
        // Who waits hears the output under its own number.
        let heard = events.heard_by(first.audience());
        heard.tell(log(1, "x")).await;
        assert_eq!(told.try_recv(), Ok(log(3, "x")));
        assert_eq!(told.try_recv(), Ok(log(1, "x")));
        drop(first);
        second.await;
        heard.tell(log(1, "y")).await;
        assert_eq!(told.try_recv(), Ok(log(1, "y")));
        assert!(told.try_recv().is_err(), "nobody waits any more");
    }
}
