//! A second reader of HTTP/1, written from RFC 9112 alone and without regard for what clients get wrong: what can be read
//! in two ways is no message. Shared with the fuzz targets.

/// A field, its name in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub value: Vec<u8>,
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    Request { method: String, target: String },
    Response { status: u16 },
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(usize),
    Chunked,
    Close,
    /// What follows is no HTTP any more.
    Tunnel,
}

/// A message, as far as it has come.
#[derive(Clone, Debug)]
pub struct Message {
    pub first: First,
    /// The minor version.
    pub minor: u8,
    pub fields: Vec<Field>,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub trailers: Vec<Field>,
    /// Whether all of it has come.
    pub complete: bool,
}

/// The messages of one direction of one connection.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// The last one may be incomplete.
    pub messages: Vec<Message>,
    /// Why what follows is no message.
    pub bad: Option<&'static str>,
    /// What follows the last message: of a tunnel all, else what has come of a head.
    pub rest: Vec<u8>,
}

/// What an answer is read against.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub minor: u8,
}

/// What a reader may take that a writer must not write (RFC 9112 §2.2, §4).
#[derive(Clone, Copy, Debug, Default)]
pub struct Tolerance {
    /// Empty lines before a message.
    pub leading_lines: bool,
    /// A line feed without a carriage return, and white space behind a name, in a response.
    pub line_feed: bool,
}

type Read<T> = Result<Option<T>, &'static str>;

impl Message {
    pub fn values<'m>(&'m self, name: &'m str) -> impl Iterator<Item = &'m [u8]> + 'm {
        self.fields.iter().filter(move |field| field.name == name).map(|field| field.value.as_slice())
    }

    pub fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// The elements of a list, in lower case.
    pub fn list(&self, name: &str) -> Vec<String> {
        self.values(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .map(|element| String::from_utf8_lossy(element.trim_ascii()).to_ascii_lowercase())
            .filter(|element| !element.is_empty())
            .collect()
    }

    pub fn status(&self) -> u16 {
        match self.first {
            First::Response { status } => status,
            First::Request { .. } => 0,
        }
    }
}

impl Stream {
    /// Final answers, with the place of each among the messages.
    pub fn finals(&self) -> Vec<&Message> {
        self.messages.iter().filter(|message| message.status() >= 200 || message.status() == 101).collect()
    }
}

/// Reads what a client sends.
pub fn requests(bytes: &[u8], tolerance: Tolerance) -> Stream {
    let mut stream = Stream::default();
    let mut rest = bytes;
    loop {
        rest = behind_lines(rest, tolerance);
        match head(rest, Tolerance { line_feed: false, ..tolerance }).and_then(|found| found.map(request).transpose()) {
            Ok(None) => break,
            Err(why) => {
                stream.bad = Some(why);
                break;
            }
            Ok(Some((mut message, used))) => {
                rest = &rest[used..];
                let read = body(&mut message, rest, false);
                let (complete, framing) = (message.complete, message.framing);
                stream.messages.push(message);
                match read {
                    Ok(used) => rest = &rest[used..],
                    Err(why) => stream.bad = Some(why),
                }
                if !complete || framing == Framing::Tunnel {
                    break;
                }
            }
        }
    }
    stream.rest = rest.to_vec();
    stream
}

/// Reads what a server sends; `closed`: it will not send more. The n-th of `asked` belongs to the n-th final answer.
pub fn responses(bytes: &[u8], asked: &[Asked], closed: bool, tolerance: Tolerance) -> Stream {
    let mut stream = Stream::default();
    let mut rest = bytes;
    let mut at = 0;
    let unasked = Asked { method: "GET".to_owned(), minor: 1 };
    loop {
        rest = behind_lines(rest, tolerance);
        let asked = asked.get(at).unwrap_or(&unasked);
        let found =
            head(rest, tolerance).and_then(|found| found.map(|head| response(head, asked, tolerance)).transpose());
        match found {
            Ok(None) => break,
            Err(why) => {
                stream.bad = Some(why);
                break;
            }
            Ok(Some((mut message, used))) => {
                rest = &rest[used..];
                let read = body(&mut message, rest, closed);
                let (complete, framing) = (message.complete, message.framing);
                at += usize::from(message.status() >= 200);
                stream.messages.push(message);
                match read {
                    Ok(used) => rest = &rest[used..],
                    Err(why) => stream.bad = Some(why),
                }
                if !complete || matches!(framing, Framing::Tunnel | Framing::Close) {
                    break;
                }
            }
        }
    }
    stream.rest = rest.to_vec();
    stream
}

fn behind_lines(bytes: &[u8], tolerance: Tolerance) -> &[u8] {
    let mut rest = bytes;
    while let Some(behind) = rest.strip_prefix(b"\r\n").or(rest.strip_prefix(b"\n")).filter(|_| tolerance.leading_lines)
    {
        rest = behind;
    }
    rest
}

/// The lines of a head without their ends, and its length with the empty line.
fn head(bytes: &[u8], tolerance: Tolerance) -> Read<(Vec<&[u8]>, usize)> {
    let (mut lines, mut from) = (Vec::new(), 0);
    loop {
        let Some((line, behind)) = line(bytes, from, tolerance)? else { return Ok(None) };
        from = behind;
        if line.is_empty() {
            return if lines.is_empty() { Err("an empty line before the head") } else { Ok(Some((lines, from))) };
        }
        lines.push(line);
    }
}

/// The line that starts at `from`, and where the next one starts.
fn line(bytes: &[u8], from: usize, tolerance: Tolerance) -> Read<(&[u8], usize)> {
    let rest = &bytes[from..];
    let Some(feed) = rest.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
    let line = match rest[..feed].strip_suffix(b"\r") {
        Some(line) => line,
        None if tolerance.line_feed => &rest[..feed],
        None => return Err("a line feed without a carriage return"),
    };
    if line.iter().any(|&byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
        return Err("a control character");
    }
    Ok(Some((line, from + feed + 1)))
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn fields(lines: &[&[u8]], tolerance: Tolerance) -> Result<Vec<Field>, &'static str> {
    lines
        .iter()
        .map(|line| {
            let colon = line.iter().position(|&byte| byte == b':').ok_or("a field without a colon")?;
            let name = if tolerance.line_feed { line[..colon].trim_ascii_end() } else { &line[..colon] };
            if !is_token(name) {
                return Err("a field name that is no token");
            }
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            Ok(Field { name, value: line[colon + 1..].trim_ascii().to_vec() })
        })
        .collect()
}

fn version(text: &[u8]) -> Result<u8, &'static str> {
    match text {
        b"HTTP/1.1" => Ok(1),
        b"HTTP/1.0" => Ok(0),
        _ => Err("another version"),
    }
}

fn message(first: First, minor: u8, fields: Vec<Field>, framing: Framing) -> Message {
    Message { first, minor, fields, framing, body: Vec::new(), trailers: Vec::new(), complete: false }
}

fn request((lines, used): (Vec<&[u8]>, usize)) -> Result<(Message, usize), &'static str> {
    let words: Vec<&[u8]> = lines[0].split(|&byte| byte == b' ').collect();
    let [method, target, minor] = words[..] else { return Err("a request line that is not three words") };
    if !is_token(method) {
        return Err("a method that is no token");
    }
    // Bytes beyond ASCII have no place in a URI, but clients do send them, and they mean one thing.
    if target.is_empty() || target.iter().any(|byte| byte.is_ascii_control()) || target.contains(&b'#') {
        return Err("a target with characters that no target has");
    }
    let minor = version(minor)?;
    let fields = fields(&lines[1..], Tolerance::default())?;
    let method = String::from_utf8_lossy(method).into_owned();
    let is_connect = method == "CONNECT";
    let first = First::Request { method, target: String::from_utf8_lossy(target).into_owned() };
    let mut message = message(first, minor, fields, Framing::None);
    if message.values("host").count() > 1 || (minor > 0 && !message.has("host")) {
        return Err("not exactly one `Host`");
    }
    message.framing = match declared(&message)? {
        Some(Framing::None | Framing::Length(0)) | None if is_connect => Framing::Tunnel,
        Some(_) if is_connect => return Err("a CONNECT with a body"),
        Some(framing) => framing,
        None => Framing::None,
    };
    Ok((message, used))
}

fn response(
    (lines, used): (Vec<&[u8]>, usize),
    asked: &Asked,
    tolerance: Tolerance,
) -> Result<(Message, usize), &'static str> {
    let mut words = lines[0].splitn(3, |&byte| byte == b' ');
    let minor = version(words.next().unwrap_or_default())?;
    let digits = words.next().unwrap_or_default();
    if digits.len() != 3 || !digits.iter().all(u8::is_ascii_digit) || digits[0] == b'0' {
        return Err("a status that is not three digits");
    }
    if words.next().is_none() && !tolerance.line_feed {
        return Err("no space behind the status");
    }
    let status = digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    let mut message = message(First::Response { status }, minor, fields(&lines[1..], tolerance)?, Framing::None);
    let is_bare = status < 200 || status == 204;
    let to_connect = asked.method == "CONNECT" && (200..300).contains(&status);
    let said = declared(&message);
    if !tolerance.line_feed {
        if (is_bare || to_connect) && (message.has("content-length") || message.has("transfer-encoding")) {
            return Err("a length where there is no body (RFC 9110 §8.6, RFC 9112 §6.1)");
        }
        if asked.minor == 0 && (message.has("transfer-encoding") || status < 200) {
            return Err("what a client of HTTP/1.0 cannot read");
        }
    }
    message.framing = if status == 101 || to_connect {
        Framing::Tunnel
    } else if is_bare || status == 304 || asked.method == "HEAD" {
        Framing::None
    } else {
        said?.unwrap_or(Framing::Close)
    };
    Ok((message, used))
}

/// What the fields say of the body.
fn declared(message: &Message) -> Result<Option<Framing>, &'static str> {
    let codings: Vec<&[u8]> = message.values("transfer-encoding").collect();
    let lengths: Vec<&[u8]> = message.values("content-length").collect();
    match (&codings[..], &lengths[..]) {
        ([], []) => Ok(None),
        ([], [length]) => {
            if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
                return Err("a length that is no number");
            }
            let length = String::from_utf8_lossy(length).parse::<u64>().map_err(|_| "a length beyond any")?;
            Ok(Some(Framing::Length(usize::try_from(length).map_err(|_| "a length beyond any")?)))
        }
        ([], _) => Err("several lengths"),
        ([coding], []) if message.minor > 0 && coding.eq_ignore_ascii_case(b"chunked") => Ok(Some(Framing::Chunked)),
        ([_], []) => Err("a transfer coding other than chunked, or one in HTTP/1.0"),
        (_, []) => Err("several transfer codings"),
        _ => Err("a length beside a transfer coding"),
    }
}

/// Reads the body behind a head, and says how long it is as it stands.
fn body(message: &mut Message, bytes: &[u8], closed: bool) -> Result<usize, &'static str> {
    match message.framing {
        Framing::None | Framing::Tunnel => {
            message.complete = true;
            Ok(0)
        }
        Framing::Length(length) => {
            let here = length.min(bytes.len());
            message.body = bytes[..here].to_vec();
            message.complete = here == length;
            Ok(here)
        }
        Framing::Close => {
            message.body = bytes.to_vec();
            message.complete = closed;
            Ok(bytes.len())
        }
        Framing::Chunked => chunks(message, bytes),
    }
}

fn chunks(message: &mut Message, bytes: &[u8]) -> Result<usize, &'static str> {
    let mut from = 0;
    loop {
        let Some((line, behind)) = line(bytes, from, Tolerance::default())? else { return Ok(bytes.len()) };
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let extension = line[digits..].trim_ascii_start();
        if digits == 0 || !(extension.is_empty() || extension.starts_with(b";")) {
            return Err("a chunk without a size");
        }
        let size = u64::from_str_radix(&String::from_utf8_lossy(&line[..digits]), 16).map_err(|_| "a huge chunk")?;
        from = behind;
        if size == 0 {
            break;
        }
        let size = usize::try_from(size).map_err(|_| "a huge chunk")?;
        let rest = &bytes[from..];
        message.body.extend_from_slice(&rest[..size.min(rest.len())]);
        match rest.get(size..) {
            None => return Ok(bytes.len()),
            Some([b'\r', b'\n', ..]) => from += size + 2,
            Some([] | [b'\r']) => return Ok(bytes.len()),
            Some(_) => return Err("a chunk longer than its size"),
        }
    }
    let mut lines = Vec::new();
    while let Some((line, behind)) = line(bytes, from, Tolerance::default())? {
        from = behind;
        if line.is_empty() {
            message.trailers = fields(&lines, Tolerance::default())?;
            message.complete = true;
            return Ok(from);
        }
        lines.push(line);
    }
    Ok(bytes.len())
}
