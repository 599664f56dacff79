//! `pull`: the manifest `latest`, then its blobs, on so many connections as are given. Prints the seconds and bytes
//! of it all.

use std::{collections::VecDeque, sync::Mutex, time::Instant};

use crate::{
    Args, Result,
    connection::{Answer, Ask},
    engine::{self, Script},
    push::MANIFEST,
};

struct Reader {
    path: Option<String>,
    body: Vec<u8>,
}

impl Script for Reader {
    fn next(&mut self, answer: Option<Answer>) -> Result<Option<Ask>> {
        if let Some(answer) = answer {
            if answer.status != 200 {
                return Err(format!("the manifest was answered {}", answer.status).into());
            }
            self.body = answer.body;
        }
        let headers = format!("Accept: {MANIFEST}\r\n");
        let path = self.path.take();
        Ok(path.map(|path| Ask::for_body(&path, &headers)))
    }
}

struct Fetcher<'a> {
    paths: &'a Mutex<VecDeque<String>>,
    bytes: u64,
}

impl Script for Fetcher<'_> {
    fn next(&mut self, answer: Option<Answer>) -> Result<Option<Ask>> {
        if let Some(answer) = answer {
            if answer.status != 200 {
                return Err(format!("a blob was answered {}", answer.status).into());
            }
            self.bytes += answer.size;
        }
        let path = self.paths.lock().expect("one thread").pop_front();
        Ok(path.map(|path| Ask::new("GET", &path, "", None)))
    }
}

pub fn run(args: &Args) -> Result<()> {
    let repository = args.word("a repository")?;
    let begun = Instant::now();
    let mut reader = [Reader {
        path: Some(format!("/v2/{repository}/manifests/latest")),
        body: Vec::new(),
    }];
    engine::run(args.address, &mut reader)?;
    let manifest: serde_json::Value = serde_json::from_slice(&reader[0].body)?;
    let layers = manifest["layers"].as_array().ok_or("no layers")?;
    let path = |layer: &serde_json::Value| {
        let digest = layer["digest"].as_str().unwrap_or_default();
        format!("/v2/{repository}/blobs/{digest}")
    };
    let paths = Mutex::new(layers.iter().map(path).collect());
    let fetcher = |_| Fetcher {
        paths: &paths,
        bytes: 0,
    };
    let mut fetchers: Vec<_> = (0..args.connections()?).map(fetcher).collect();
    engine::run(args.address, &mut fetchers)?;
    let bytes: u64 = fetchers.iter().map(|f| f.bytes).sum();
    println!("{:.6}\t{bytes}", begun.elapsed().as_secs_f64());
    Ok(())
}
