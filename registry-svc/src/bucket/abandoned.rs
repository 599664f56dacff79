//! What was begun to be put in pieces and never ended. Whoever begins writes it down first of all, and gives it up at
//! his next start; what is left is of processes that ended between the two, or of machines that never came back.
//!
//! `object_store` knows no `ListMultipartUploads`, so that request is made here ([`super::raw`]).

use std::time::Duration;

use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use jiff::Timestamp;
use object_store::multipart::MultipartStore as _;
use serde::Deserialize;

use super::{Bucket, failed, failure, is_missing};
use crate::error::{Error, Result};

/// Bytes of a page, at most: it has a thousand entries or fewer.
const PAGE: usize = 4 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default, rename = "Upload")]
    uploads: Vec<Upload>,
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: String,
    #[serde(default)]
    next_upload_id_marker: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Upload {
    key: String,
    upload_id: String,
    initiated: Timestamp,
}

/// See [`Bucket::give_up_old`].
pub async fn give_up(bucket: &Bucket, folders: &[&str], age: Duration) -> Result<usize> {
    let mut given_up = 0;
    for folder in folders {
        let below = format!("{}/", bucket.key(folder));
        let (mut key, mut id) = (String::new(), String::new());
        loop {
            let page = page(bucket, &below, &key, &id).await?;
            for upload in page.uploads {
                let is_old = bucket.age(upload.initiated.into()) >= age;
                // Whatever a server takes a prefix to be.
                if upload.key.starts_with(&below) && is_old {
                    let key = upload.key.as_str().into();
                    match bucket
                        .requests
                        .abort_multipart(&key, &upload.upload_id)
                        .await
                    {
                        Err(error) if !is_missing(&error) => return Err(failed(&error)),
                        _ => given_up += 1,
                    }
                }
            }
            if !page.is_truncated {
                break;
            }
            (key, id) = (page.next_key_marker, page.next_upload_id_marker);
        }
    }
    Ok(given_up)
}

async fn page(bucket: &Bucket, below: &str, key: &str, id: &str) -> Result<Page> {
    let mut url = bucket.raw.address.clone();
    url.query_pairs_mut()
        .append_pair("uploads", "")
        .append_pair("prefix", below);
    if !key.is_empty() {
        url.query_pairs_mut()
            .append_pair("key-marker", key)
            .append_pair("upload-id-marker", id);
    }
    let nonsense = |e: &dyn std::fmt::Display| Error::Bucket(format!("a list of uploads: {e}"));
    let answer = bucket.raw.ask(bucket, Method::GET, &url).await?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, PAGE).collect().await;
    let body = body.map_err(|e| nonsense(&e))?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    match head.status {
        StatusCode::OK => quick_xml::de::from_str(&text).map_err(|e| nonsense(&e)),
        status => Err(Error::Bucket(failure::sentence(&format!(
            "{status}: {text}"
        )))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_may_be_empty_or_have_many_or_be_one_of_many() {
        let page = |text: &str| quick_xml::de::from_str::<Page>(text).unwrap();
        let empty = page(
            "<ListMultipartUploadsResult><Bucket>b</Bucket><KeyMarker></KeyMarker>\
             <IsTruncated>false</IsTruncated></ListMultipartUploadsResult>",
        );
        assert!(empty.uploads.is_empty() && !empty.is_truncated);
        // As the reference of the S3 API has it.
        let many = page(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <ListMultipartUploadsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <Bucket>bucket</Bucket><KeyMarker></KeyMarker><UploadIdMarker></UploadIdMarker>\
             <NextKeyMarker>b</NextKeyMarker><NextUploadIdMarker>YW5v</NextUploadIdMarker>\
             <MaxUploads>3</MaxUploads><IsTruncated>true</IsTruncated>\
             <Upload><Key>a</Key><UploadId>XMgb</UploadId>\
             <Initiator><ID>u</ID></Initiator><Owner><ID>o</ID></Owner>\
             <StorageClass>STANDARD</StorageClass>\
             <Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload>\
             <Upload><Key>b</Key><UploadId>VXBs</UploadId>\
             <Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload>\
             </ListMultipartUploadsResult>",
        );
        let keys: Vec<_> = many
            .uploads
            .iter()
            .map(|u| (&*u.key, &*u.upload_id))
            .collect();
        assert_eq!(keys, [("a", "XMgb"), ("b", "VXBs")]);
        assert_eq!(many.uploads[0].initiated.as_second(), 1_289_422_113);
        assert!(many.is_truncated);
        assert_eq!(
            (&*many.next_key_marker, &*many.next_upload_id_marker),
            ("b", "YW5v")
        );
    }

    #[tokio::test]
    async fn what_nobody_ended_is_given_up_when_it_is_old() {
        let Some(server) = super::super::server::Server::shared() else {
            return;
        };
        let config = |prefix| server.settings(prefix).check().unwrap().unwrap();
        let bucket = Bucket::new(&config("abandoned")).unwrap();
        let beside = Bucket::new(&config("abandoned-2")).unwrap();
        let mut ids = Vec::new();
        for name in ["blobs/sha256/ab/x/1", "checkpoints/2", "foreign/3"] {
            let key = bucket.key(name);
            ids.push(bucket.requests.create_multipart(&key).await.unwrap());
        }
        let key = beside.key("blobs/4");
        beside.requests.create_multipart(&key).await.unwrap();
        let folders = ["blobs", "checkpoints"];
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(bucket.give_up_old(&folders, day).await.unwrap(), 0);
        assert_eq!(
            bucket.give_up_old(&folders, Duration::ZERO).await.unwrap(),
            2
        );
        assert_eq!(
            bucket.give_up_old(&folders, Duration::ZERO).await.unwrap(),
            0
        );
        let left = page(&bucket, bucket.key("").as_ref(), "", "")
            .await
            .unwrap();
        let left: Vec<_> = left.uploads.iter().map(|u| &*u.key).collect();
        assert_eq!(left, ["abandoned-2/blobs/4", "abandoned/foreign/3"]);
    }

    #[tokio::test]
    async fn what_cannot_be_written_down_is_given_up_at_once() {
        let Some(server) = super::super::server::Server::shared() else {
            return;
        };
        let config = server.settings("unnoted").check().unwrap().unwrap();
        let bucket = std::sync::Arc::new(Bucket::new(&config).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("content");
        std::fs::write(&path, vec![7; 9 << 20]).unwrap();
        let content = super::super::Segment {
            path,
            offset: 0,
            size: 9 << 20,
        };
        let nowhere = dir.path().join("nowhere");
        let put = bucket
            .put("blobs/x".to_owned(), vec![content], &nowhere)
            .await;
        assert!(matches!(put, Err(Error::Io { .. })), "{put:?}");
        let left = page(&bucket, "unnoted/", "", "").await.unwrap();
        assert!(left.uploads.is_empty());
    }
}
