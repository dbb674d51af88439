//! The text of statements with many values. A statement of `n` rows is another text than one of `n + 1`; so only
//! those of a power of two are kept prepared, and the others are parsed anew, which costs a few microseconds a row.

/// `$3, $4, $5`: so many places, from this number on.
pub(super) fn list(count: usize, first: usize) -> String {
    let places: Vec<String> = (first..first + count)
        .map(|number| format!("${number}"))
        .collect();
    places.join(", ")
}

/// `($1, $2), ($3, $4)`: so many rows of so many places.
pub(super) fn rows(count: usize, columns: usize) -> String {
    let rows: Vec<String> = (0..count)
        .map(|row| format!("({})", list(columns, 1 + row * columns)))
        .collect();
    rows.join(", ")
}

/// Whether a statement of so many rows stays prepared.
pub(super) fn is_kept(count: usize) -> bool {
    count.is_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_numbered_from_one_row_to_the_next() {
        assert_eq!(list(3, 2), "$2, $3, $4");
        assert_eq!(rows(2, 3), "($1, $2, $3), ($4, $5, $6)");
    }
}
