//! Answers of other resolvers, remembered for as long as they say (RFC 1035, 7.4; RFC 2308 for "no such name"): a plain
//! value that is told the time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::wire::{SOA, code, is_truncated, records, u32_at};

/// Answers that are kept, and how large one may be.
const ENTRIES: usize = 1000;
const LARGEST: usize = 4096;

/// However long an answer says that it is good.
const LONGEST: u32 = 3600;

const NO_ERROR: u8 = 0;
const NO_SUCH_NAME: u8 = 3;

/// Who was asked, and what: all of it but the id.
type Key = (Vec<SocketAddr>, Vec<u8>);

#[derive(Debug)]
struct Entry {
    answer: Vec<u8>,
    stored: Instant,
    until: Instant,
}

/// See the module's page.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Key, Entry>,
}

impl Cache {
    /// The answer to a query, with its id, and times that are as much shorter as it is old.
    pub fn get(&mut self, servers: &[SocketAddr], query: &[u8], now: Instant) -> Option<Vec<u8>> {
        let key = (servers.to_vec(), query.get(2..)?.to_vec());
        let entry = self.entries.get(&key)?;
        if entry.until <= now {
            self.entries.remove(&key);
            return None;
        }
        let age = u32::try_from(now.duration_since(entry.stored).as_secs()).ok()?;
        let mut answer = entry.answer.clone();
        for record in records(&answer)? {
            let left = record.ttl.saturating_sub(age);
            answer[record.ttl_at..record.ttl_at + 4].copy_from_slice(&left.to_be_bytes());
        }
        answer[..2].copy_from_slice(&query[..2]);
        Some(answer)
    }

    /// Remembers an answer, if it says for how long.
    pub fn put(&mut self, servers: &[SocketAddr], query: &[u8], answer: &[u8], now: Instant) {
        let Some(seconds) = good_for(answer).filter(|s| *s > 0) else {
            return;
        };
        if self.entries.len() >= ENTRIES {
            self.entries.retain(|_, entry| entry.until > now);
        }
        if self.entries.len() >= ENTRIES {
            // Any one: whoever floods it has no say in whose goes.
            let some = self.entries.keys().next().cloned();
            some.and_then(|key| self.entries.remove(&key));
        }
        let Some(asked) = query.get(2..) else { return };
        let entry = Entry {
            answer: answer.to_vec(),
            stored: now,
            until: now + Duration::from_secs(seconds.into()),
        };
        self.entries
            .insert((servers.to_vec(), asked.to_vec()), entry);
    }
}

/// Seconds.
fn good_for(answer: &[u8]) -> Option<u32> {
    if answer.len() > LARGEST || is_truncated(answer) {
        return None;
    }
    let records = records(answer)?;
    let has_answer = records.iter().any(|record| record.is_answer);
    let seconds = match code(answer)? {
        NO_ERROR if has_answer => records.iter().map(|record| record.ttl).min()?,
        NO_ERROR | NO_SUCH_NAME => {
            let soa = records.iter().find(|record| record.kind == SOA)?;
            // Its last field (RFC 2308, 5).
            let minimum = u32_at(answer, soa.data.1.checked_sub(4)?)?;
            soa.ttl.min(minimum)
        }
        _ => return None,
    };
    Some(seconds.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, Query, ResponseCode};
    use hickory_proto::rr::rdata::{A, SOA as Authority};
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn query(text: &str) -> Message {
        let mut query = Message::query();
        query.add_query(Query::query(name(text), RecordType::A));
        query
    }

    fn answer(to: &Message, code: ResponseCode, answers: Vec<Record>, authority: bool) -> Vec<u8> {
        let mut answer = Message::response(to.metadata.id, to.metadata.op_code);
        answer.metadata.response_code = code;
        answer.add_queries(to.queries.iter().cloned());
        answer.add_answers(answers);
        if authority {
            let soa = Authority::new(name("a."), name("b."), 1, 2, 3, 4, 30);
            answer
                .authorities
                .push(Record::from_rdata(name("example."), 60, RData::SOA(soa)));
        }
        answer.to_vec().unwrap()
    }

    fn address(ttl: u32) -> Record {
        Record::from_rdata(name("x.example."), ttl, RData::A(A([192, 0, 2, 1].into())))
    }

    #[test]
    fn answers_grow_old_and_keep_who_asked_apart() {
        let (asked, again) = (query("x.example."), query("x.example."));
        assert_ne!(asked.metadata.id, again.metadata.id);
        let [one, other]: [SocketAddr; 2] =
            ["192.0.2.53:53", "192.0.2.54:53"].map(|a| a.parse().unwrap());
        let mut cache = Cache::default();
        let now = Instant::now();
        let whole = answer(
            &asked,
            ResponseCode::NoError,
            vec![address(100), address(50)],
            false,
        );
        cache.put(&[one], &asked.to_vec().unwrap(), &whole, now);
        let again_bytes = again.to_vec().unwrap();
        let later = now + Duration::from_secs(49);
        let got = cache.get(&[one], &again_bytes, later).unwrap();
        let got = Message::from_vec(&got).unwrap();
        assert_eq!(got.metadata.id, again.metadata.id);
        let ttls: Vec<u32> = got.answers.iter().map(|record| record.ttl).collect();
        assert_eq!(ttls, [51, 1]);
        assert_eq!(cache.get(&[other], &again_bytes, later), None);
        assert_eq!(
            cache.get(&[one], &again_bytes, now + Duration::from_secs(50)),
            None
        );
    }

    #[test]
    fn only_what_says_for_how_long_is_remembered() {
        let asked = query("x.example.");
        for (code, answers, authority, expected) in [
            (ResponseCode::NoError, vec![address(7)], false, Some(7)),
            (ResponseCode::NoError, vec![address(0)], false, Some(0)),
            (
                ResponseCode::NoError,
                vec![address(86400)],
                false,
                Some(3600),
            ),
            (ResponseCode::NoError, vec![], true, Some(30)),
            (ResponseCode::NXDomain, vec![], true, Some(30)),
            (ResponseCode::NXDomain, vec![], false, None),
            (ResponseCode::ServFail, vec![], true, None),
            (ResponseCode::Refused, vec![address(7)], false, None),
        ] {
            let bytes = answer(&asked, code, answers, authority);
            assert_eq!(good_for(&bytes), expected, "{code}");
        }
    }

    #[test]
    fn a_flood_takes_no_more_than_its_room() {
        let mut cache = Cache::default();
        let now = Instant::now();
        for number in 0..2 * ENTRIES {
            let asked = query(&format!("x{number}.example."));
            let bytes = answer(&asked, ResponseCode::NoError, vec![address(60)], false);
            cache.put(&[], &asked.to_vec().unwrap(), &bytes, now);
        }
        assert_eq!(cache.entries.len(), ENTRIES);
    }
}
