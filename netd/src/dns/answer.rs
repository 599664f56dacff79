//! Answering a query from a zone, or finding that it is somebody else's: pure, from bytes to bytes.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::ipam::DualStack;

use super::zone::Zone;

/// Containers come and go: nobody should remember an address for long.
const TTL: u32 = 30;

/// What to do with a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send this.
    Answer(Vec<u8>),
    /// None of this zone's: ask others.
    Forward,
    /// Nothing that deserves an answer.
    Ignore,
}

/// Decides about a query. Of several addresses the `turn`-th comes first: clients take that one.
pub fn decide(zone: &Zone, query: &[u8], turn: usize) -> Decision {
    let Ok(query) = Message::from_vec(query) else {
        return Decision::Ignore;
    };
    if query.metadata.message_type != MessageType::Query {
        return Decision::Ignore;
    }
    if query.metadata.op_code != OpCode::Query {
        return error(&query, ResponseCode::NotImp);
    }
    if query.queries.len() != 1 {
        return error(&query, ResponseCode::FormErr);
    }
    known(zone, &query, turn).unwrap_or(Decision::Forward)
}

/// The answer if it asks for a name or an address of this zone.
pub fn answer_of(zone: &Zone, query: &[u8], turn: usize) -> Option<Decision> {
    let query = Message::from_vec(query).ok()?;
    known(zone, &query, turn)
}

fn known(zone: &Zone, query: &Message, turn: usize) -> Option<Decision> {
    let [question] = query.queries.as_slice() else {
        return None;
    };
    if question.query_class != DNSClass::IN {
        return None;
    }
    let name = question.name.to_ascii();
    if let Some(address) = address_asked(question) {
        return Some(match zone.reverse(address)? {
            None => error(query, ResponseCode::NXDomain),
            Some(host) => match Name::from_ascii(format!("{host}.")) {
                Ok(host) => answer(query, vec![RData::PTR(PTR(host))]),
                Err(_) => error(query, ResponseCode::ServFail),
            },
        });
    }
    let mut addresses = zone.lookup(&name);
    if addresses.is_empty() {
        return None;
    }
    let first = turn % addresses.len();
    addresses.rotate_left(first);
    // A name of ours has addresses only: everything else, and AAAA where there is no IPv6, is "exists, but no such
    // data", never "no such name", which would make resolvers that ask for both give up.
    let asked = |address: &IpAddr| match question.query_type {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        kind => kind == RecordType::ANY,
    };
    let own = addresses.into_iter().flat_map(DualStack::all);
    let data = own.filter(asked).map(|address| match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    });
    Some(answer(query, data.collect()))
}

/// The address whose name is asked for, if that is the question.
pub fn reverse_of(query: &[u8]) -> Option<IpAddr> {
    let query = Message::from_vec(query).ok()?;
    match query.queries.as_slice() {
        [question] => address_asked(question),
        _ => None,
    }
}

fn address_asked(question: &Query) -> Option<IpAddr> {
    let net = (question.query_type == RecordType::PTR)
        .then(|| question.name.parse_arpa_name().ok())
        .flatten()?;
    (net.prefix_len() == net.max_prefix_len()).then_some(net.addr())
}

/// The answer when no resolver could be asked.
pub fn failure(query: &[u8]) -> Option<Vec<u8>> {
    refusal(query, ResponseCode::ServFail)
}

/// The answer when nobody else is to be asked.
pub fn no_such_name(query: &[u8]) -> Option<Vec<u8>> {
    refusal(query, ResponseCode::NXDomain)
}

fn refusal(query: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    match error(&query, code) {
        Decision::Answer(bytes) => Some(bytes),
        _ => None,
    }
}

fn respond(query: &Message) -> Message {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_queries(query.queries.iter().cloned());
    // RFC 6891 6.1.1: an OPT record is answered with one.
    if let Some(asked) = &query.edns {
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(asked.max_payload().clamp(512, 1232));
        response.set_edns(edns);
    }
    response
}

fn answer(query: &Message, data: Vec<RData>) -> Decision {
    let mut response = respond(query);
    response.metadata.authoritative = true;
    if let Some(question) = query.queries.first() {
        let records = data
            .into_iter()
            .map(|data| Record::from_rdata(question.name.clone(), TTL, data));
        response.add_answers(records);
    }
    encode(&response)
}

fn error(query: &Message, code: ResponseCode) -> Decision {
    let mut response = respond(query);
    response.metadata.response_code = code;
    encode(&response)
}

fn encode(response: &Message) -> Decision {
    response.to_vec().map_or(Decision::Ignore, Decision::Answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Endpoint;
    use crate::id::{EndpointId, NetworkId};
    use crate::netlink::Mac;
    use crate::network::Request;

    fn at(last: u8) -> DualStack {
        DualStack {
            v4: [172, 20, 0, last].into(),
            v6: None,
        }
    }

    fn zone() -> Zone {
        let request = Request {
            name: "front".into(),
            ..Request::default()
        };
        let network = request
            .plan("172.20.0.0/16".parse().unwrap(), None, 1500)
            .unwrap();
        let mut zone = Zone::new(&network);
        let address = at(2);
        zone.insert(&Endpoint {
            id: EndpointId::random(),
            network: NetworkId::random(),
            container: "0123456789abcdef0123".into(),
            container_name: "Web".into(),
            hostname: "box".into(),
            aliases: vec!["www".into()],
            interface: "eth0".into(),
            mac: Mac::of(address.v4),
            address,
            ports: vec![],
            dns: vec![],
            dns_search: vec![],
            dns_options: vec![],
            gateway_priority: 0,
            netns: 0,
        });
        zone
    }

    fn ask(name: &str, kind: RecordType) -> Option<Message> {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        match decide(&zone(), &query.to_vec().unwrap(), 0) {
            Decision::Answer(bytes) => Some(Message::from_vec(&bytes).unwrap()),
            Decision::Forward => None,
            Decision::Ignore => panic!("ignored"),
        }
    }

    #[test]
    fn every_name_of_a_container_is_answered() {
        for name in [
            "web.",
            "WEB.",
            "box.",
            "www.",
            "0123456789ab.",
            "web.front.",
        ] {
            let response = ask(name, RecordType::A).unwrap_or_else(|| panic!("{name} forwarded"));
            let data: Vec<_> = response.answers.iter().map(|r| r.data.clone()).collect();
            assert_eq!(data, [RData::A(A([172, 20, 0, 2].into()))], "{name}");
        }
    }

    #[test]
    fn those_who_share_a_name_take_turns() {
        let mut zone = zone();
        for last in [3, 4] {
            let address = at(last);
            zone.insert(&Endpoint {
                id: EndpointId::random(),
                network: NetworkId::random(),
                container: format!("{last}{last}{last}"),
                container_name: format!("web{last}"),
                hostname: String::new(),
                aliases: vec!["www".into()],
                interface: "eth0".into(),
                mac: Mac::of(address.v4),
                address,
                ports: vec![],
                dns: vec![],
                dns_search: vec![],
                dns_options: vec![],
                gateway_priority: 0,
                netns: 0,
            });
        }
        let mut query = Message::query();
        query.add_query(Query::query(
            Name::from_ascii("www.").unwrap(),
            RecordType::A,
        ));
        let bytes = query.to_vec().unwrap();
        let mut first = std::collections::BTreeSet::new();
        for turn in 5..8 {
            let Decision::Answer(answer) = decide(&zone, &bytes, turn) else {
                panic!("it is ours");
            };
            let answers = Message::from_vec(&answer).unwrap().answers;
            assert_eq!(answers.len(), 3);
            first.insert(answers[0].data.to_string());
        }
        assert_eq!(first.len(), 3);
    }

    #[test]
    fn no_ipv6_address_is_no_data_and_not_no_such_name() {
        let response = ask("web.", RecordType::AAAA).unwrap();
        assert_eq!(response.metadata.response_code, ResponseCode::NoError);
        assert!(response.answers.is_empty());
    }

    #[test]
    fn who_has_ipv6_is_found_by_it_and_it_by_him() {
        let request = Request {
            name: "front".into(),
            ..Request::default()
        };
        let network = request
            .plan(
                "172.20.0.0/16".parse().unwrap(),
                Some("fd00::/64".parse().unwrap()),
                1500,
            )
            .unwrap();
        let mut zone = Zone::new(&network);
        let own = r#"{"id":"1","network":"n","container":"c","container_name":"web","hostname":"","aliases":[],
            "interface":"eth0","mac":"02:42:ac:14:00:02","address":"172.20.0.2","address6":"fd00::2","ports":[],
            "dns":[],"dns_search":[],"dns_options":[]}"#;
        zone.insert(&serde_json::from_str(own).unwrap());
        let said = |name: &str, kind: RecordType| -> Option<Vec<String>> {
            let mut query = Message::query();
            query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
            match decide(&zone, &query.to_vec().unwrap(), 0) {
                Decision::Answer(bytes) => {
                    let answers = Message::from_vec(&bytes).unwrap().answers;
                    Some(answers.iter().map(|r| r.data.to_string()).collect())
                }
                _ => None,
            }
        };
        assert_eq!(said("web.", RecordType::AAAA).unwrap(), ["fd00::2"]);
        assert_eq!(said("web.", RecordType::A).unwrap(), ["172.20.0.2"]);
        assert_eq!(said("web.", RecordType::ANY).unwrap().len(), 2);
        let arpa = |last: char| format!("{last}.{}0.0.d.f.ip6.arpa.", "0.".repeat(27));
        assert_eq!(said(&arpa('2'), RecordType::PTR).unwrap(), ["web.front."]);
        assert!(said(&arpa('3'), RecordType::PTR).unwrap().is_empty());
        assert_eq!(said("1.8.b.d.0.1.0.0.2.ip6.arpa.", RecordType::PTR), None);
    }

    #[test]
    fn reverse() {
        let response = ask("2.0.20.172.in-addr.arpa.", RecordType::PTR).unwrap();
        let RData::PTR(PTR(name)) = &response.answers[0].data else {
            panic!()
        };
        assert_eq!(name.to_ascii(), "web.front.");
        let response = ask("9.0.20.172.in-addr.arpa.", RecordType::PTR).unwrap();
        assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
        assert!(ask("8.8.8.8.in-addr.arpa.", RecordType::PTR).is_none());
    }

    #[test]
    fn foreign_names_are_forwarded_and_noise_is_ignored() {
        assert!(ask("example.org.", RecordType::A).is_none());
        assert!(ask("web.back.", RecordType::A).is_none());
        assert_eq!(decide(&zone(), b"noise", 0), Decision::Ignore);
    }
}
