//! Sets of bytes, as tables: the host and the path of every request are read byte by byte.

/// Letters, digits, and `others`.
pub(super) const fn letters_digits_and(others: &[u8]) -> [bool; 256] {
    let mut set = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        set[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        set[others[at] as usize] = true;
        at += 1;
    }
    set
}
