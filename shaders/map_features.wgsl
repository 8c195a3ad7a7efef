%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% set patches = windows == "patches"
// map_features.wgsl - windows over the three channels of similarity maps, as rows
// Computes   per pair, of its map M [l_q, l_c]: rows of windows over M, over the maxima of its rows (at every column), and
//            over those of its columns (at every row). Variant `windows` = patches: 8 x 8 side by side, behind one row of
//            zeros; neighbours: the 3 x 3 around every pixel of a picture. What is not shown is zero. Variant `winners`:
//            the columns of the maxima of the first 128 rows, the rows of those of the first 128 columns; of equal numbers
//            the first wins
// Twins      src/ops/map_features/ (definition, reference, launch), kernels/map_features.ptx
// Entry      map_features
//
// Shapes     maps f32, packed; cuts [p, 8] u32: where the map begins, l_q, l_c, the first row of windows, windows down
//            and across (of neighbours: the picture), how far maxima reach (column maxima down in the lower half, row
//            maxima across in the upper), the first winner; rows [windows, 192 (patches) or 32 (neighbours)] f16 or f32
//            (variant `rows`); winners u32
// Layout     row-major, 16-byte aligned; column channel n n + y n + x of a row is pixel (y, x) of the n x n of a window; of
//            neighbours the last five are zero. The bindings of maps, rows and winners begin at element first_element, row
//            first_row and winner first_winner
// Requires   pictures and reaches at most 128 (checked when the layout is made)
//
// Launch     one workgroup of 192 for each of the pairs first_pair .. end_pair, spread over x and y
// Mapping    an invocation finds the maxima of a row or a column or two; then each owns four columns of the rows and walks
//            from window to window
// Memory     1,024 B of workgroup memory: the maxima
// Sync       one barrier
// Limits     none beyond the defaults
//
// Work       2 l_q l_c comparisons per pair
// Traffic    4 l_q l_c bytes read, from cache after the first time; windows x ${192 if patches else 32} numbers written
// Roofline   memory bound
// Measured   see benches/results
//
// Numerics   numbers are copied; f16 may be either neighbour
// Edges      an empty map has no window, and NO_WINNER for winners; NaN: no promise which number is a maximum
struct Params { first_pair: u32, end_pair: u32, first_element: u32, first_row: u32, first_winner: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> maps: array<f32>;
@group(0) @binding(1) var<storage, read> cuts: array<vec4<u32>>;
${array(2, "rows", rows, "read_write", native)}
%% if winners
@group(0) @binding(3) var<storage, read_write> winners: array<u32>;
%% endif

// A multiple of the units of four numbers in a row.
const GROUP: u32 = 192u;
const UNITS: u32 = ${48 if patches else 8}u;
const ZERO_ROWS: u32 = ${1 if patches else 0}u;
const LARGEST: u32 = 128u;
const NO_WINNER: u32 = 0xffffffffu;

// Of rows, then of columns.
var<workgroup> maxima: array<f32, 256>;

struct Cut { map: u32, shape: vec2<u32>, picture: vec2<u32>, reach: vec2<u32> }

// The number of a channel at row i and column j of the plane.
fn pixel(cut: Cut, channel: u32, i: u32, j: u32) -> f32 {
    if i >= cut.picture.x || j >= cut.picture.y {
        return 0.0;
    }
    switch channel {
        case 0u {
            if i < cut.shape.x && j < cut.shape.y {
                return maps[cut.map + i * cut.shape.y + j];
            }
        }
        case 1u {
            if i < cut.shape.x && j < cut.reach.y && cut.shape.y > 0u {
                return maxima[i];
            }
        }
        case 2u {
            if i < cut.reach.x && j < cut.shape.y && cut.shape.x > 0u {
                return maxima[LARGEST + j];
            }
        }
        default {}
    }
    return 0.0;
}

@compute @workgroup_size(GROUP)
fn map_features(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let pair = p.first_pair + group.x + group.y * groups.x;
    if pair >= p.end_pair {
        return;
    }
    let head = cuts[2u * pair];
    let tail = cuts[2u * pair + 1u];
    let grid = tail.xy;
    var cut: Cut;
    cut.map = head.x - p.first_element;
    cut.shape = head.yz;
    cut.reach = vec2<u32>(tail.z & 0xffffu, tail.z >> 16u);
    let limits = min(cut.shape, vec2<u32>(LARGEST));
%% if patches
    cut.picture = limits;
%% else
    cut.picture = grid;
%% endif

    // ---- Maxima: tasks 0 .. are rows, then columns ----
    for (var task = lane; task < limits.x + limits.y; task += GROUP) {
        let is_row = task < limits.x;
        let column = task - limits.x;
        let count = select(cut.shape.x, cut.shape.y, is_row);
        let first = cut.map + select(column, task * cut.shape.y, is_row);
        let step = select(cut.shape.y, 1u, is_row);
        var best = 0.0;
        var winner = NO_WINNER;
        for (var k = 0u; k < count; k += 1u) {
            let v = maps[first + k * step];
            if k == 0u || v > best {
                best = v;
                winner = k;
            }
        }
        maxima[select(LARGEST + column, task, is_row)] = best;
%% if winners
        winners[tail.w - p.first_winner + task] = winner;
%% endif
    }
    workgroupBarrier(); // the maxima are there

    // ---- Four columns of every row ----
    let unit = lane % UNITS;
    let first = head.w - p.first_row;
%% if patches
    if lane < UNITS {
        store_rows(first * UNITS + unit, vec4<f32>());
    }
%% endif
    for (var window = lane / UNITS; window < grid.x * grid.y; window += GROUP / UNITS) {
        let i = window / grid.y;
        let j = window % grid.y;
        var v: vec4<f32>;
        for (var e = 0u; e < 4u; e += 1u) {
%% if patches
            v[e] = pixel(cut, unit / 16u, 8u * i + unit % 16u / 2u, 8u * j + unit % 2u * 4u + e);
%% else
            // One below zero is beyond every picture.
            let column = 4u * unit + e;
            v[e] = pixel(cut, column / 9u, i + column % 9u / 3u - 1u, j + column % 3u - 1u);
%% endif
        }
        store_rows((first + ZERO_ROWS + window) * UNITS + unit, v);
    }
}
