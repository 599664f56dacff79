//! Just enough of a message's form (RFC 1035, 4.1) to change what must be changed in one that goes through: whoever
//! takes it apart and puts it together again loses what he does not know.

/// Bytes of a header.
pub const HEADER: usize = 12;

/// `OPT` (RFC 6891): no record, its TTL is something else.
pub const OPT: u16 = 41;
/// `SOA`
pub const SOA: u16 = 6;

/// A record in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its type.
    pub kind: u16,
    /// Where its TTL is.
    pub ttl_at: usize,
    /// Seconds.
    pub ttl: u32,
    /// Where its data begins and ends.
    pub data: (usize, usize),
    /// Whether it is an answer.
    pub is_answer: bool,
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// A number of 32 bits.
pub fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(
        message.get(at..at + 4)?.try_into().ok()?,
    ))
}

/// Where what follows a name begins.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            // A pointer ends the name (4.1.4).
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length if length & 0xc0 == 0 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// Where the questions end.
pub fn after_questions(message: &[u8]) -> Option<usize> {
    (0..u16_at(message, 4)?).try_fold(HEADER, |at, _| Some(after_name(message, at)? + 4))
}

/// The questions, as they stand there; names are compared without regard to case.
pub fn questions(message: &[u8]) -> Option<Vec<u8>> {
    let end = after_questions(message)?;
    Some(message.get(HEADER..end)?.to_ascii_lowercase())
}

/// All records, `OPT` left out.
pub fn records(message: &[u8]) -> Option<Vec<Record>> {
    let counts = [
        u16_at(message, 6)?,
        u16_at(message, 8)?,
        u16_at(message, 10)?,
    ];
    let mut at = after_questions(message)?;
    let mut found = Vec::new();
    for (section, count) in counts.into_iter().enumerate() {
        for _ in 0..count {
            let fixed = after_name(message, at)?;
            let kind = u16_at(message, fixed)?;
            let begin = fixed + 10;
            let end = begin + usize::from(u16_at(message, fixed + 8)?);
            if end > message.len() {
                return None;
            }
            if kind != OPT {
                found.push(Record {
                    kind,
                    ttl_at: fixed + 4,
                    ttl: u32_at(message, fixed + 4)?,
                    data: (begin, end),
                    is_answer: section == 0,
                });
            }
            at = end;
        }
    }
    Some(found)
}

/// The answer code.
pub fn code(message: &[u8]) -> Option<u8> {
    Some(message.get(3)? & 0x0f)
}

/// It was cut: the whole is to be had over tcp.
pub fn is_truncated(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

/// What a client takes over udp: 512 bytes, or what it says (RFC 6891, 6.2.3; a smaller number means 512).
pub fn payload(query: &[u8]) -> usize {
    let opt = || {
        let mut at = after_questions(query)?;
        let counts = [u16_at(query, 6)?, u16_at(query, 8)?, u16_at(query, 10)?];
        for _ in 0..counts.into_iter().map(usize::from).sum() {
            let fixed = after_name(query, at)?;
            if u16_at(query, fixed)? == OPT {
                return u16_at(query, fixed + 2).map(usize::from);
            }
            at = fixed + 10 + usize::from(u16_at(query, fixed + 8)?);
        }
        None
    };
    opt().unwrap_or(512).max(512)
}

/// An answer as it may go over udp: one that is too long becomes one that says so (RFC 2181, 9).
pub fn cut(answer: Vec<u8>, limit: usize) -> Vec<u8> {
    if answer.len() <= limit {
        return answer;
    }
    let Some(end) = after_questions(&answer).filter(|end| *end <= limit) else {
        return answer;
    };
    let mut cut = answer[..end].to_vec();
    cut[2] |= 0x02;
    cut[6..HEADER].fill(0);
    cut
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, Message, Query, ResponseCode};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record as Whole, RecordType};
    use proptest::prelude::*;

    use super::*;

    fn query(payload: Option<u16>) -> Vec<u8> {
        let mut query = Message::query();
        let name = Name::from_ascii("Many.example.").unwrap();
        query.add_query(Query::query(name, RecordType::A));
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            query.set_edns(edns);
        }
        query.to_vec().unwrap()
    }

    fn answer(count: u8) -> Vec<u8> {
        let query = Message::from_vec(&query(Some(4096))).unwrap();
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.add_queries(query.queries.iter().cloned());
        answer.set_edns(Edns::new());
        let name = &query.queries[0].name;
        answer.add_answers((0..count).map(|last| {
            let data = RData::A(A([192, 0, 2, last].into()));
            Whole::from_rdata(name.clone(), 60 + u32::from(last), data)
        }));
        answer.to_vec().unwrap()
    }

    #[test]
    fn records_are_found_where_they_are() {
        let message = answer(3);
        let found = records(&message).unwrap();
        assert_eq!(found.len(), 3);
        for (number, record) in found.iter().enumerate() {
            assert_eq!((record.kind, record.ttl), (1, 60 + number as u32));
            assert_eq!(
                &message[record.data.0..record.data.1],
                [192, 0, 2, number as u8]
            );
            assert!(record.is_answer);
        }
        assert_eq!(questions(&message), questions(&query(None)));
        assert_eq!(code(&message), Some(0));
    }

    #[test]
    fn what_is_too_long_for_udp_says_so() {
        assert_eq!(payload(&query(None)), 512);
        assert_eq!(payload(&query(Some(1232))), 1232);
        assert_eq!(payload(&query(Some(100))), 512);
        let long = answer(200);
        assert_eq!(cut(long.clone(), 65535), long);
        let cut = cut(long.clone(), 512);
        assert!(is_truncated(&cut) && !is_truncated(&long));
        let parsed = Message::from_vec(&cut).unwrap();
        assert_eq!(parsed.queries, Message::from_vec(&long).unwrap().queries);
        assert_eq!(parsed.metadata.response_code, ResponseCode::NoError);
        assert!(parsed.answers.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_breaks_it(message: Vec<u8>, damage in 0..200_usize, to: u8) {
            let mut whole = answer(4);
            let at = damage % whole.len();
            whole[at] = to;
            for message in [message, whole] {
                let _ = (records(&message), questions(&message), payload(&message));
                let cut = cut(message.clone(), 20);
                prop_assert!(cut.len() <= message.len());
            }
        }
    }
}
