//! Names on a network that spans hosts.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use netd::netlink::Netns;
use slipway_proto::netd::v1::*;

use crate::overlay::{OURS, PEERS, THEIRS, asked, container, join, their_end};
use crate::world::*;

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query.to_vec().unwrap()
}

/// What the resolver of the network says to whoever asks from the calling thread's namespace.
pub fn resolve(
    server: Ipv4Addr,
    name: &str,
    kind: RecordType,
) -> io::Result<(ResponseCode, Vec<String>)> {
    let answer = ask_udp((server, 53), &query(name, kind))?;
    let answer = Message::from_vec(&answer).map_err(io::Error::other)?;
    let data = answer.answers.iter().map(|record| record.data.to_string());
    Ok((answer.metadata.response_code, data.collect()))
}

/// Another host's netd: knows `there` at 10.20.1.9. Tells which names it was asked for.
pub fn answer_names(neighbour: &Netns) -> std::sync::mpsc::Receiver<String> {
    let bind = || UdpSocket::bind((THEIRS, 53));
    let socket = neighbour.inside(bind).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((read, client)) = socket.recv_from(&mut buffer) {
            let query = Message::from_vec(&buffer[..read]).unwrap();
            let question = query.queries[0].clone();
            let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
            answer.add_queries([question.clone()]);
            let name = question.name.to_ascii();
            let data = match name.as_str() {
                "there." => Some(RData::A(A([10, 20, 1, 9].into()))),
                "9.1.20.10.in-addr.arpa." => {
                    Some(RData::PTR(PTR(Name::from_ascii("there.wide.").unwrap())))
                }
                _ => None,
            };
            match data {
                Some(data) => {
                    answer.add_answers([Record::from_rdata(question.name, 30, data)]);
                }
                None => answer.metadata.response_code = ResponseCode::NXDomain,
            }
            let _ = socket.send_to(&answer.to_vec().unwrap(), client);
            // The test may be over.
            let _ = tell.send(format!("{client} {name}"));
        }
    });
    told
}

#[test]
fn names_are_known_on_all_hosts_and_asked_of_nobody_else() {
    on_a_host(|world| {
        world.network(asked(&[("peers", PEERS)])).unwrap();
        join(&world.neighbour, &their_end());
        let asked_there = answer_names(&world.neighbour);
        let web = container(world, "web");
        let inside = |name: &str, kind| web.netns.inside(|| resolve(OURS, name, kind)).unwrap();
        let known = (ResponseCode::NoError, vec!["10.20.1.9".to_owned()]);
        eventually("the other host answers in time", || {
            inside("there.", RecordType::A) == known
        });
        assert_eq!(
            asked_there.recv().unwrap().split_once(':').unwrap().0,
            OURS.to_string()
        );
        // Remembered: hardly anybody is asked again, and the answer has this query's id.
        while asked_there.try_recv().is_ok() {}
        let again = (0..50).filter(|_| inside("there.", RecordType::A) == known);
        assert!(again.count() > 25);
        assert!(asked_there.try_iter().count() < 25);
        let reverse = "9.1.20.10.in-addr.arpa.";
        eventually("the other host knows whose it is", || {
            inside(reverse, RecordType::PTR).1 == ["there.wide."]
        });
        // Whose address it is nobody outside knows: not even asked, though the resolver here is none.
        let nobody = "9.2.20.10.in-addr.arpa.";
        assert_eq!(inside(nobody, RecordType::PTR).0, ResponseCode::NXDomain);

        // What the other host asks is answered, and never passed on.
        let there = |name: &str| {
            world
                .neighbour
                .inside(|| resolve(OURS, name, RecordType::A))
        };
        assert_eq!(there("web.").unwrap().1, ["10.20.0.2"]);
        assert_eq!(there("web.wide.").unwrap().1, ["10.20.0.2"]);
        assert_eq!(there("example.org.").unwrap().0, ResponseCode::NXDomain);
        assert_eq!(there("there.").unwrap().0, ResponseCode::NXDomain);

        // A container on several networks knows them, too.
        let both = world.run("both", &[]);
        let netns = both.endpoint.netns_path.clone();
        let second = CreateEndpointRequest {
            network: "wide".to_owned(),
            netns,
            ..request("both", &[])
        };
        world.attach(second).unwrap();
        let bridge: Ipv4Addr = both.endpoint.ipv4_gateway.parse().unwrap();
        eventually("it knows them", || {
            let known = || resolve(bridge, "there.", RecordType::A);
            both.netns.inside(known).unwrap().1 == ["10.20.1.9"]
        });
        // Those of other networks do not.
        let stranger = world.run("stranger", &[]);
        let unknown = stranger
            .netns
            .inside(|| resolve(bridge, "there.", RecordType::A));
        assert_eq!(unknown.unwrap().1.len(), 0);
    });
}

#[test]
fn a_silent_host_costs_a_wait_now_and_then_and_not_each_query() {
    on_a_host(|world| {
        // Without a way out, so that nothing but the hosts is waited for.
        let closed = CreateNetworkRequest {
            internal: true,
            ..asked(&[("peers", PEERS)])
        };
        world.network(closed).unwrap();
        let web = container(world, "web");
        let there = || UdpSocket::bind((NEIGHBOUR, 4789));
        let tunnel = world.neighbour.inside(there).unwrap();
        tunnel.set_nonblocking(true).unwrap();
        let queries = 100;
        web.netns
            .inside(|| {
                for number in 0..queries {
                    let (code, _) = resolve(OURS, &format!("n{number}."), RecordType::A)?;
                    assert_eq!(code, ResponseCode::NXDomain);
                }
                Ok(())
            })
            .unwrap();
        let mut asked = 0;
        while tunnel.recv(&mut [0; 512]).is_ok() {
            asked += 1;
        }
        assert!((1..queries / 2).contains(&asked), "{asked}");
    });
}
