//! Which elements of a matrix a lane holds: the formulas of the PTX ISA, "Matrix fragments for mma.m16n8k8 and
//! mma.m16n8k16 with floating point type", written out per lane and element.

/// Element `i` of a lane's fragment of an 8 x 8 matrix of 16-bit elements: row and column.
pub fn of_8x8(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4, 2 * (lane % 4) + i)
}

/// A (16 x k, f16): row = groupID for a0, a1, a4, a5, groupID + 8 otherwise; column = 2 threadID_in_group + (i & 1), plus
/// 8 from a4 on.
pub fn of_a(lane: usize, i: usize) -> (usize, usize) {
    let (group, position) = (lane >> 2, lane % 4);
    let row = if matches!(i, 0 | 1 | 4 | 5) {
        group
    } else {
        group + 8
    };
    let column = 2 * position + (i & 1) + if i >= 4 { 8 } else { 0 };
    (row, column)
}

/// B (k x 8, f16): row = 2 threadID_in_group + (i & 1), plus 8 from b2 on; column = groupID.
pub fn of_b(lane: usize, i: usize) -> (usize, usize) {
    (
        2 * (lane % 4) + (i & 1) + if i >= 2 { 8 } else { 0 },
        lane >> 2,
    )
}

/// C and D (16 x 8): row = groupID for c0, c1, groupID + 8 for c2, c3; column = 2 threadID_in_group + (i & 1).
pub fn of_c(lane: usize, i: usize) -> (usize, usize) {
    (
        if i < 2 { lane >> 2 } else { (lane >> 2) + 8 },
        2 * (lane % 4) + (i & 1),
    )
}
