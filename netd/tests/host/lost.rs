//! Answers of the kernel that are lost, because it has no memory for them.

use std::os::fd::AsFd as _;

use netd::netlink::{Family, Mac, Route, Socket, link};
use netd::nft::{Batch, Client};
use nix::sys::socket::{setsockopt, sockopt};

use crate::world::*;

const MANY: u32 = 40;

/// One that takes a few answers at a time (`SOCK_MIN_RCVBUF`).
fn narrow(family: Family) -> Socket {
    let socket = Socket::open(family).unwrap();
    setsockopt(&socket.as_fd(), sockopt::RcvBuf, &1).unwrap();
    socket
}

#[test]
fn what_was_done_is_told_as_done() {
    on_a_host(|_| {
        let mut socket = narrow(Family::Route);
        let mut all = |requests: Vec<netd::netlink::wire::Message>| {
            let answers = socket.request(&requests).unwrap();
            assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        };
        let name = |number: u32| format!("many{number}");
        let make = |number| link::create_bridge(&name(number), Mac([2; 6]), 1500);
        all((0..MANY).map(make).collect());
        let links = Route::open().unwrap().links().unwrap();
        let ours = links.iter().filter(|link| link.name.starts_with("many"));
        let ours: Vec<u32> = ours.map(|link| link.index).collect();
        assert_eq!(ours.len(), MANY as usize);
        all(ours.into_iter().map(link::delete).collect());
        // Those that are refused are told as refused.
        let made = socket.request(&[link::create_bridge("lan0", Mac([2; 6]), 1500)]);
        assert!(made.unwrap()[0].is_err());
    });
}

#[test]
fn why_a_batch_was_refused_is_known_by_what_is_left_of_the_answers() {
    on_a_host(|_| {
        let mut client = Client::over(narrow(Family::Netfilter));
        let mut batch = Batch::of("nobodys");
        for _ in 0..MANY {
            batch.delete_table();
        }
        let refused = client.apply(batch).unwrap_err();
        assert!(refused.is_missing(), "{refused:?}");
    });
}
