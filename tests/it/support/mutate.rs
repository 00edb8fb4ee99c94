//! Changed seeds, for tests that have no time for a fuzzer: the same changes at every run.

/// The seeds of a fuzz target: a line each, with the escapes of `printf %b`.
pub fn seeds(lines: &str) -> Vec<Vec<u8>> {
    lines.lines().map(unescaped).collect()
}

fn unescaped(line: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), line.as_bytes());
    while let [first, behind @ ..] = rest {
        let (byte, behind) = match (first, behind) {
            (b'\\', [b'n', behind @ ..]) => (b'\n', behind),
            (b'\\', [b'r', behind @ ..]) => (b'\r', behind),
            (b'\\', [b't', behind @ ..]) => (b'\t', behind),
            (b'\\', [b'\\', behind @ ..]) => (b'\\', behind),
            (b'\\', [b'x', high, low, behind @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).unwrap();
                (u8::from_str_radix(digits, 16).unwrap(), behind)
            }
            (b'\\', other) => panic!("an escape that is not known here: {}", other.escape_ascii()),
            (first, behind) => (*first, behind),
        };
        out.push(byte);
        rest = behind;
    }
    out
}

/// Calls `check` with each seed, and `rounds` times with one that was changed.
pub fn each(seeds: &[Vec<u8>], rounds: usize, seed: u64, mut check: impl FnMut(&[u8])) {
    const WORDS: [&str; 16] = [
        "\r\n",
        "\n",
        "\r",
        " ",
        "\t",
        ":",
        ",",
        "\0",
        "\u{e9}",
        "#",
        "0",
        "Connection: ",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Host: a\r\n",
        "\"",
    ];
    seeds.iter().for_each(|seed| check(seed));
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..rounds {
        let mut input = seeds[random.usize(..seeds.len())].clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..=input.len());
            let end = (at + random.usize(..8)).min(input.len());
            match random.u8(..6) {
                0 => drop(input.drain(at..end)),
                1 => drop(input.splice(at..at, WORDS[random.usize(..WORDS.len())].bytes())),
                2 => drop(input.splice(at..end, WORDS[random.usize(..WORDS.len())].bytes())),
                3 => input.insert(at, random.u8(..)),
                4 => {
                    let part = input[at..end].to_vec();
                    drop(input.splice(at..at, part));
                }
                _ => {
                    // The end of another seed.
                    let other = &seeds[random.usize(..seeds.len())];
                    let from = random.usize(..=other.len());
                    drop(input.splice(at.., other[from..].iter().copied()));
                }
            }
        }
        check(&input);
    }
}
