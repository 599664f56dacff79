//! What the benchmark of the network does to netd and through it: see the README of the benchmarks. Prints what it
//! measured on stdout, tab-separated.
//!
//! `ready`, `attach`, `publish`, `withdraw` and `hold` are a client of netd, on one connection. `serve` is what runs in a
//! container, `echo`, `rate`, `rounds` and `stream` send to it, and `dns` asks a resolver.

#![forbid(unsafe_code)]

mod args;
mod dns;
mod netd;
mod serve;
mod tcp;
mod udp;

use std::process::ExitCode;

use args::Args;

/// Anything that went wrong, in a sentence.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "usage: slipway-traffic ready SOCKET
       slipway-traffic attach SOCKET --count N --prepared N
       slipway-traffic publish SOCKET --netns PATH --name NAME --ports N --first PORT --calls N
       slipway-traffic withdraw SOCKET --name NAME
       slipway-traffic hold SOCKET --count N --first PORT
       slipway-traffic serve PORT...
       slipway-traffic echo ADDRESS:PORT --count N [--fresh 1]
       slipway-traffic rate ADDRESS:PORT --seconds N
       slipway-traffic rounds ADDRESS:PORT --seconds N
       slipway-traffic stream ADDRESS:PORT --seconds N
       slipway-traffic dns ADDRESS:PORT --name NAME --seconds N (each # of the name is another number in each question)";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (Some(verb), Some(args)) = (words.next(), Args::parse(words)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let done = match &*verb {
        "ready" => netd::ready(&args),
        "attach" => netd::attach(&args),
        "publish" => netd::publish(&args),
        "withdraw" => netd::withdraw(&args),
        "hold" => netd::hold(&args),
        "serve" => serve::run(&args),
        "echo" => udp::echo(&args),
        "rate" => udp::rate(&args),
        "rounds" => tcp::rounds(&args),
        "stream" => tcp::stream(&args),
        "dns" => dns::run(&args),
        _ => Err(format!("{verb} is unknown\n{USAGE}").into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slipway-traffic {verb}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the median, the 99th percentile and the worst of some times, microseconds.
fn tell(mut took: Vec<std::time::Duration>) {
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    let us = |percent| at(percent).as_secs_f64() * 1e6;
    println!("{:.1}\t{:.1}\t{:.1}", us(50), us(99), us(100));
}
