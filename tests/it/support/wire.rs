//! HTTP/1.1 read by hand, so that nothing is tidied up on the way.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A message head, as it came.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub first: String,
    pub lines: Vec<(String, String)>,
    pub raw: Vec<u8>,
}

impl Head {
    pub fn all(&self, name: &str) -> Vec<&str> {
        all(&self.lines, name)
    }

    pub fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} came {} times: {all:?}", all.len());
        all.first().copied()
    }

    /// Every name folded as frameworks fold it.
    pub fn folded_names(&self) -> Vec<String> {
        let fold = |name: &str| {
            name.chars()
                .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
                .collect()
        };
        self.lines.iter().map(|(name, _)| fold(name)).collect()
    }
}

pub fn all<'a>(lines: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    lines.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
}

/// What has been read of a stream and not used yet.
#[derive(Debug, Default)]
pub struct Reader {
    pub buf: Vec<u8>,
}

impl Reader {
    pub async fn more(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        let mut chunk = vec![0; 64 * 1024];
        let n = stream.read(&mut chunk).await?;
        self.buf.extend_from_slice(&chunk[..n]);
        Ok(n)
    }

    /// Up to and with `end`; `None` where the stream ends before.
    pub async fn through(&mut self, stream: &mut (impl AsyncRead + Unpin), end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buf.windows(end.len()).position(|w| w == end) {
                return Some(self.buf.drain(..at + end.len()).collect());
            }
            if !matches!(self.more(stream).await, Ok(n) if n > 0) {
                return None;
            }
        }
    }

    pub async fn head(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Option<Head> {
        let raw = self.through(stream, b"\r\n\r\n").await?;
        let text: String = raw.iter().map(|b| char::from(*b)).collect();
        let mut rows = text.trim_end_matches("\r\n").split("\r\n");
        let first = rows.next()?.to_owned();
        let lines = rows
            .map(|row| row.split_once(':').expect("a colon"))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Some(Head { first, lines, raw })
    }

    /// Exactly so many bytes; fewer where the stream ends before. `took` sees each piece.
    pub async fn exactly(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        mut count: u64,
        mut took: impl FnMut(&[u8]),
    ) -> bool {
        while count > 0 {
            if self.buf.is_empty() && !matches!(self.more(stream).await, Ok(n) if n > 0) {
                return false;
            }
            let n = self.buf.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            took(&self.buf[..n]);
            self.buf.drain(..n);
            count -= n as u64;
        }
        true
    }

    /// A chunked body; its trailers where it came whole.
    pub async fn chunks(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        mut took: impl FnMut(&[u8]),
    ) -> Option<Vec<(String, String)>> {
        loop {
            let size = self.through(stream, b"\r\n").await?;
            let size = String::from_utf8(size).ok()?;
            let size = u64::from_str_radix(size.trim().split(';').next()?, 16).ok()?;
            if size == 0 {
                break;
            }
            if !self.exactly(stream, size, &mut took).await {
                return None;
            }
            self.through(stream, b"\r\n").await?;
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.through(stream, b"\r\n").await?;
            let line = String::from_utf8(line).ok()?;
            if line == "\r\n" {
                return Some(trailers);
            }
            let (name, value) = line.split_once(':')?;
            trailers.push((name.to_owned(), value.trim().to_owned()));
        }
    }
}
