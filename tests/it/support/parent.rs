//! A parent proxy that opens real tunnels, and notes what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A running parent.
pub struct Parent {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Parent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a parent says to the n-th CONNECT; nothing: it opens the tunnel.
type Script = Arc<dyn Fn(usize) -> Option<Vec<u8>> + Send + Sync>;

/// How a SOCKS parent behaves.
#[derive(Clone, Default)]
pub struct Socks {
    /// Whom it lets in; nobody: everybody.
    pub login: Option<(&'static str, &'static str)>,
    /// The reply's code.
    pub code: u8,
    /// What it says to the greeting instead.
    pub junk: Option<&'static [u8]>,
    /// Where names lead.
    pub names: Option<SocketAddr>,
    /// What comes together with its last word.
    pub early: &'static [u8],
}

impl Parent {
    /// One over HTTP.
    pub async fn http(script: impl Fn(usize) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let script: Script = Arc::new(script);
        Self::start(move |stream, number, seen| http(stream, script(number), seen)).await
    }

    /// One over HTTP inside TLS.
    pub async fn https(tls: TlsAcceptor) -> Self {
        Self::start(move |stream, _, seen| {
            let tls = tls.clone();
            async move {
                if let Ok(stream) = tls.accept(stream).await {
                    http(stream, None, seen).await;
                }
            }
        })
        .await
    }

    /// One that speaks SOCKS 5.
    pub async fn socks(how: Socks) -> Self {
        Self::start(move |stream, _, seen| {
            let how = how.clone();
            async move {
                let _ = socks(stream, how, seen).await;
            }
        })
        .await
    }

    async fn start<F>(serve: impl Fn(TcpStream, usize, Seen) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Seen::default();
        let noted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(serve(stream, number, Arc::clone(&noted)));
            }
        });
        Self { address, seen, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked: heads of CONNECT, or destinations.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

type Seen = Arc<Mutex<Vec<String>>>;

async fn http(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: Option<Vec<u8>>, seen: Seen) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap().to_owned();
    seen.lock().unwrap().push(head);
    if let Some(answer) = answer {
        let _ = stream.write_all(&answer).await;
        // Whoever wants the end of it closes.
        let _ = stream.read_u8().await;
        return;
    }
    let mut far = TcpStream::connect(target).await.unwrap();
    // A length and a coding mean nothing here (RFC 9110 section 9.3.6).
    let opened = b"HTTP/1.1 200 Connection established\r\nContent-Length: 5\r\n\r\n";
    if stream.write_all(opened).await.is_ok() {
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut far).await;
    }
}

async fn socks(mut stream: TcpStream, how: Socks, seen: Seen) -> std::io::Result<()> {
    let mut greeting = [0; 2];
    stream.read_exact(&mut greeting).await?;
    let mut methods = vec![0; usize::from(greeting[1])];
    stream.read_exact(&mut methods).await?;
    if let Some(junk) = how.junk {
        return stream.write_all(junk).await;
    }
    match how.login {
        None => stream.write_all(&[5, 0]).await?,
        Some(_) if !methods.contains(&2) => return stream.write_all(&[5, 0xff]).await,
        Some((user, password)) => {
            stream.write_all(&[5, 2]).await?;
            assert_eq!(stream.read_u8().await?, 1);
            let mut words = Vec::new();
            for _ in 0..2 {
                let mut word = vec![0; usize::from(stream.read_u8().await?)];
                stream.read_exact(&mut word).await?;
                words.push(String::from_utf8(word).unwrap());
            }
            let is_good = words == [user, password];
            stream.write_all(&[1, u8::from(!is_good)]).await?;
            if !is_good {
                return Ok(());
            }
        }
    }
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    assert_eq!(head[..3], [5, 1, 0]);
    let (text, mut to) = match head[3] {
        1 => {
            let mut octets = [0; 4];
            stream.read_exact(&mut octets).await?;
            let port = stream.read_u16().await?;
            let to = SocketAddr::from((octets, port));
            (format!("address {to}"), to)
        }
        3 => {
            let mut name = vec![0; usize::from(stream.read_u8().await?)];
            stream.read_exact(&mut name).await?;
            let port = stream.read_u16().await?;
            (format!("name {}:{port}", String::from_utf8(name).unwrap()), ([127, 0, 0, 1], port).into())
        }
        other => panic!("an address of type {other}"),
    };
    seen.lock().unwrap().push(text);
    to = how.names.unwrap_or(to);
    let mut reply = vec![5, how.code, 0, 3, 4];
    reply.extend(b"here\x01\x02");
    reply.extend(how.early);
    if how.code != 0 {
        return stream.write_all(&reply).await;
    }
    let mut far = TcpStream::connect(to).await?;
    stream.write_all(&reply).await?;
    tokio::io::copy_bidirectional(&mut stream, &mut far).await.map(drop)
}
