//! What somebody probably meant.

/// ` (did you mean X?)` for the closest of the known names, if one is close.
pub(crate) fn hint(word: &str, known: &[&str]) -> String {
    // Nobody means a short name by a very long one.
    let word: String = word.chars().take(32).collect::<String>().to_ascii_lowercase();
    let distances = known.iter().map(|name| (distance(&word, &name.to_ascii_lowercase()), name));
    let closest = distances.min_by_key(|(distance, _)| *distance);
    match closest {
        Some((distance, name)) if distance < 3 => format!(" (did you mean {name}?)"),
        _ => String::new(),
    }
}

/// How many letters to change, add or take away.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (place, other) in b.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[place + 1];
            row[place + 1] = changed.min(row[place] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
