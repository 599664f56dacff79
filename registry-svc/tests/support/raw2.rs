//! HTTP/2 as a client speaks it that follows no rules: frames by hand (RFC 9113).

// Each test uses a part of it.
#![allow(dead_code)]

/// The preface, and settings that let every stream have all at once.
pub fn greeting() -> Vec<u8> {
    greeting_of(0x7fff_ffff)
}

/// The preface, and settings that let every stream have so much at once.
pub fn greeting_of(window: u32) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE
    let mut settings = vec![0, 4];
    settings.extend(window.to_be_bytes());
    bytes.extend(frame(4, 0, 0, &settings));
    // WINDOW_UPDATE of the connection
    bytes.extend(frame(8, 0, 0, &[0x7f, 0, 0, 0]));
    bytes
}

/// A GET, whole.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    // END_STREAM and END_HEADERS; :method GET of the static table (RFC 7541, A).
    frame(1, 0x5, stream, &block(&[0x82], path))
}

/// A PUT whose body is to come.
pub fn put(stream: u32, path: &str) -> Vec<u8> {
    // END_HEADERS; the name of index 2, :method, with a value of its own.
    frame(1, 0x4, stream, &block(b"\x02\x03PUT", path))
}

/// A part of a body, with more to come.
pub fn data(stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(0, 0, stream, bytes)
}

/// Headers: :scheme http of the static table, :path and :authority as they stand.
fn block(method: &[u8], path: &str) -> Vec<u8> {
    assert!(path.len() < 127, "one byte says how long");
    let mut block = method.to_vec();
    block.extend([0x86, 0x04, path.len() as u8]);
    block.extend(path.bytes());
    let host = b"localhost";
    block.extend([0x01, host.len() as u8]);
    block.extend(host);
    block
}

/// RST_STREAM, CANCEL.
pub fn reset(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &[0, 0, 0, 8])
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}
