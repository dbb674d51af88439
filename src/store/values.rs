//! The text of statements with many values. A statement of `n` rows is another text than one of `n + 1`; so only
//! those of a power of two are kept prepared, and the others are parsed anew, which costs a few microseconds a row.

use std::fmt::{self, Write as _};

/// Rows that one statement inserts; each number of them up to this one stays prepared. SQLite looks for the name of each
/// value among those of all, so the cost of a statement grows with the square of its values.
pub(super) const ROWS_INSERTED: usize = 16;

/// `$3, $4, $5`: so many places, from this number on.
pub(super) fn list(count: usize, first: usize) -> String {
    rows_of(count, first, 1, |text, place| write!(text, "${place}"))
}

/// `($1, $2), ($3, $4)`: so many rows of so many places.
pub(super) fn rows(count: usize, columns: usize) -> String {
    rows_from(count, columns, 1)
}

/// The same with places from this number on.
pub(super) fn rows_from(count: usize, columns: usize, first: usize) -> String {
    rows_of(count, first, columns, |text, first| {
        write!(text, "({})", list(columns, first))
    })
}

/// `(...), (...)`: so many rows, each made by `row` of the number of the first of its `own` places.
pub(super) fn rows_of(
    count: usize,
    first: usize,
    own: usize,
    row: impl Fn(&mut String, usize) -> fmt::Result,
) -> String {
    let mut text = String::new();
    for index in 0..count {
        if index > 0 {
            text.push_str(", ");
        }
        // Writing to a String does not fail.
        let _ = row(&mut text, first + index * own);
    }
    text
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
        assert_eq!(rows_from(2, 2, 2), "($2, $3), ($4, $5)");
        let shared = rows_of(2, 4, 2, |text, first| {
            write!(text, "($1, ${first}, ${})", first + 1)
        });
        assert_eq!(shared, "($1, $4, $5), ($1, $6, $7)");
    }
}
