//! What the fuzz targets look for with the whole program, tried with a few hundred changed seeds of theirs.

use std::time::Duration;

use super::support::heads::{Arena, Seen};
use super::support::{bodies, configuration, mutate};

#[test]
fn what_comes_out_at_one_end_is_what_a_strict_reader_finds_at_the_other() {
    let arena = Arena::new(Duration::from_millis(200));
    let mut all = Seen::default();
    mutate::each(&mutate::seeds(include_str!("../fuzz/seeds/head")), 600, 4, |input| {
        let seen = arena.play(input);
        all.forwarded += seen.forwarded;
        all.answered += seen.answered;
        all.refused += seen.refused;
    });
    assert!(all.forwarded > 100 && all.answered > 100 && all.refused > 100, "little was tried: {all:?}");
}

#[test]
fn any_text_is_a_configuration_that_can_be_shown_and_read_again_or_is_refused() {
    let mut accepted = 0;
    mutate::each(&mutate::seeds(include_str!("../fuzz/seeds/config")), 1000, 5, |input| {
        if let Ok(text) = std::str::from_utf8(input) {
            accepted += usize::from(configuration::check(text));
        }
    });
    assert!(accepted > 20, "little was accepted: {accepted}");
}

#[test]
fn the_pieces_of_a_body_change_nothing_about_what_its_rules_say() {
    let mut matched = 0;
    mutate::each(&mutate::seeds(include_str!("../fuzz/seeds/body")), 3000, 6, |input| {
        matched += usize::from(bodies::check(input));
    });
    assert!(matched > 300, "little matched: {matched}");
}
