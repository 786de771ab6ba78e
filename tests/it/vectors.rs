//! Runs the vectors of tests/vectors: bytes in, and the bytes, the refusal or the waiting that the specification says.

use std::{collections::HashSet, fs, path::Path};

use bytes::BytesMut;
use portcullis::mqtt::{
    Packet, ProtocolVersion,
    codec::{DecodeError, Decoder, Limits, Role, encode, encoded_len},
};

enum Expected {
    Bytes(Vec<u8>),
    Same,
    Error(u8),
    Wait,
}

struct Vector {
    /// File and description, for the message of a failure.
    name: String,
    clause: String,
    role: Role,
    version: Option<ProtocolVersion>,
    input: Vec<u8>,
    expected: Expected,
    means: Vec<String>,
}

impl Vector {
    fn decoder(&self) -> Decoder {
        let mut decoder = Decoder::new(self.role, Limits { maximum_packet_size: 1 << 20 });
        if let Some(version) = self.version {
            decoder.set_version(version);
        }
        decoder
    }

    fn decode(&self, bytes: &[u8]) -> Result<Option<Packet>, DecodeError> {
        self.decoder().decode(&mut BytesMut::from(bytes))
    }

    /// The input a byte at a time, until there is an answer.
    fn decode_bytewise(&self) -> Result<Option<Packet>, DecodeError> {
        let (mut decoder, mut buffer) = (self.decoder(), BytesMut::new());
        let mut answer = Ok(None);
        for byte in &self.input {
            buffer.extend_from_slice(&[*byte]);
            answer = decoder.decode(&mut buffer);
            if answer != Ok(None) {
                break;
            }
        }
        answer
    }
}

/// Hexadecimal bytes and quoted text, separated by blanks.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, part) in text.split('"').enumerate() {
        if index % 2 == 1 {
            bytes.extend_from_slice(part.as_bytes());
        } else {
            bytes.extend(
                part.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("two hexadecimal digits")),
            );
        }
    }
    bytes
}

fn parse(file: &str, paragraph: &str) -> Vector {
    let mut lines = paragraph.lines();
    let title = lines.next().and_then(|line| line.strip_prefix("# ")).expect("a description");
    let mut vector = Vector {
        name: format!("{file}: {title}"),
        clause: String::new(),
        role: Role::Server,
        version: None,
        input: Vec::new(),
        expected: Expected::Wait,
        means: Vec::new(),
    };
    for line in lines {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        match (key, value) {
            ("clause", _) => value.clone_into(&mut vector.clause),
            ("from", "client new") => {}
            ("from", "client 3.1.1") => vector.version = Some(ProtocolVersion::V311),
            ("from", "client 5.0") => vector.version = Some(ProtocolVersion::V5),
            ("from", "server 3.1.1") => vector.role = Role::Client(ProtocolVersion::V311),
            ("from", "server 5.0") => vector.role = Role::Client(ProtocolVersion::V5),
            ("in", _) => vector.input = bytes(value),
            ("out", "same") => vector.expected = Expected::Same,
            ("out", _) => vector.expected = Expected::Bytes(bytes(value)),
            ("error", _) => {
                let code = value.strip_prefix("0x").and_then(|code| u8::from_str_radix(code, 16).ok());
                vector.expected = Expected::Error(code.expect("0x and two digits"));
            }
            ("wait", "") => vector.expected = Expected::Wait,
            ("means", _) => vector.means.push(value.to_owned()),
            _ => panic!("{}: `{line}` is not understood", vector.name),
        }
    }
    if let Role::Client(version) = vector.role {
        vector.version = Some(version);
    }
    assert!(!vector.clause.is_empty(), "{}: no clause", vector.name);
    vector
}

fn vectors() -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut vectors = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        // The first paragraph says what the file is.
        vectors.extend(text.split("\n\n").skip(1).map(|paragraph| parse(&file, paragraph.trim_end())));
    }
    vectors
}

#[test]
fn every_vector_comes_out_as_the_specification_says() {
    let vectors = vectors();
    assert!(vectors.len() > 300, "only {} vectors found", vectors.len());
    let mut wrong = Vec::new();
    for vector in &vectors {
        let decoded = vector.decode(&vector.input);
        let verdict = match (&vector.expected, &decoded) {
            (Expected::Wait, Ok(None)) => Ok(()),
            (Expected::Error(code), Err(error)) if error.reason_code as u8 == *code => {
                // Nothing is refused in a language that the peer has not spoken.
                if vector.version.is_some() && error.version != vector.version {
                    Err(format!("answered in {:?}", error.version))
                } else {
                    Ok(())
                }
            }
            (Expected::Same, Ok(Some(packet))) => comes_out(vector, packet, &vector.input),
            (Expected::Bytes(expected), Ok(Some(packet))) => comes_out(vector, packet, expected),
            _ => Err(format!("decoded as {decoded:?}")),
        };
        if let Err(what) = verdict {
            wrong.push(format!("{} [{}]: {what}", vector.name, vector.clause));
        }
        if vector.decode_bytewise() != decoded {
            wrong.push(format!("{} [{}]: differs when it comes a byte at a time", vector.name, vector.clause));
        }
    }
    assert!(wrong.is_empty(), "{} of {} vectors:\n{}", wrong.len(), vectors.len(), wrong.join("\n"));
}

fn comes_out(vector: &Vector, packet: &Packet, expected: &[u8]) -> Result<(), String> {
    let debug = format!("{packet:?}");
    if let Some(missing) = vector.means.iter().find(|means| !debug.contains(*means)) {
        return Err(format!("`{missing}` is not in {debug}"));
    }
    let version = match packet {
        Packet::Connect(connect) => connect.version,
        _ => vector.version.ok_or("no version")?,
    };
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).map_err(|error| error.to_string())?;
    if out != expected {
        return Err(format!("encoded as {out:02x?}"));
    }
    if encoded_len(packet, version) != Ok(out.len()) {
        return Err("encoded_len differs".to_owned());
    }
    Ok(())
}

#[test]
fn no_prefix_of_a_valid_vector_is_answered() {
    for vector in vectors().iter().filter(|vector| matches!(vector.expected, Expected::Same | Expected::Bytes(_))) {
        for length in 0..vector.input.len() {
            assert_eq!(vector.decode(&vector.input[..length]), Ok(None), "{} at {length}", vector.name);
        }
    }
}

#[test]
fn vectors_are_told_apart_by_their_names() {
    let vectors = vectors();
    let names: HashSet<_> = vectors
        .iter()
        .map(|vector| (&vector.name, vector.role == Role::Server, vector.version.map(|version| version as u8)))
        .collect();
    assert_eq!(names.len(), vectors.len(), "two vectors have one name");
}
