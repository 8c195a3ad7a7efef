%% if native
enable f16;
%% endif
%% set patches = windows == "patches"
// map_features_backward.wgsl - from the gradients of windows over similarity maps to those of the maps
// Computes   dM[i, j] = sum of the gradients of channel 0 of all windows at (i, j), and if (i, j) is the winner of its row,
//            of channel 1 at all of row i, and if it is that of its column, of channel 2 at all of column j
// Twins      src/ops/map_features_backward/ (definition, reference, launch), kernels/map_features_backward.ptx
// Entry      map_features_backward
//
// Shapes     d_rows [windows, 192 (variant `windows` = patches) or 32 (neighbours)] f32; cuts [p, 8] u32 and winners u32
//            as for map_features; d_maps f32, packed
// Layout     row-major; the bindings of d_maps, d_rows and winners begin at element first_element, row first_row and winner
//            first_winner
// Requires   what map_features requires
//
// Launch     one workgroup of 128 for each of the pairs first_pair .. end_pair, spread over x and y
// Mapping    an invocation adds up a row or a column or two, then makes elements
// Memory     1,024 B of workgroup memory: the sums
// Sync       one barrier
// Limits     none beyond the defaults
//
// Work       one addition for every number of d_rows that shows something
// Traffic    d_rows read once, each channel in a phase of its own (of neighbours nine times, from cache after the first);
//            4 l_q l_c bytes written
// Roofline   memory bound
// Measured   see benches/results
//
// Numerics   sums one after the other in a fixed order; bound in error_bound of the twin
// Edges      elements beyond 128 rows or columns get what they won, or zero; NO_WINNER wins nothing
struct Params { first_pair: u32, end_pair: u32, first_element: u32, first_row: u32, first_winner: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> d_rows: array<f32>;
@group(0) @binding(1) var<storage, read> cuts: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> winners: array<u32>;
@group(0) @binding(3) var<storage, read_write> d_maps: array<f32>;

const GROUP: u32 = 128u;
const WIDTH: u32 = ${192 if patches else 32}u;
const LARGEST: u32 = 128u;

// Of rows, then of columns.
var<workgroup> sums: array<f32, 256>;

// The gradient of a channel at row i and column j of a picture, from the rows that begin at `first` of a grid.
fn pixel(first: u32, grid: vec2<u32>, channel: u32, i: u32, j: u32) -> f32 {
%% if patches
    return d_rows[(first + i / 8u * grid.y + j / 8u) * WIDTH + channel * 64u + i % 8u * 8u + j % 8u];
%% else
    var sum = 0.0;
    for (var y = 0u; y < 3u; y += 1u) {
        for (var x = 0u; x < 3u; x += 1u) {
            // Of the window in whose row y and column x this pixel is; one below zero is beyond every picture.
            let window = vec2<u32>(i + 1u - y, j + 1u - x);
            if all(window < grid) {
                sum += d_rows[(first + window.x * grid.y + window.y) * WIDTH + channel * 9u + y * 3u + x];
            }
        }
    }
    return sum;
%% endif
}

@compute @workgroup_size(GROUP)
fn map_features_backward(
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
    let shape = head.yz;
    let grid = tail.xy;
    let limits = min(shape, vec2<u32>(LARGEST));
    let first = head.w - p.first_row + ${1 if patches else 0}u;
%% if patches
    let picture = limits;
    let reach = limits;
%% else
    let picture = grid;
    let reach = min(vec2<u32>(tail.z & 0xffffu, tail.z >> 16u), picture);
%% endif
    let shown = min(limits, picture);

    // ---- Sums: tasks 0 .. are rows, then columns ----
    for (var task = lane; task < limits.x + limits.y; task += GROUP) {
        var sum = 0.0;
        if task < limits.x {
            if task < shown.x {
                for (var j = 0u; j < reach.y; j += 1u) {
                    sum += pixel(first, grid, 1u, task, j);
                }
            }
            sums[task] = sum;
        } else {
            let j = task - limits.x;
            if j < shown.y {
                for (var i = 0u; i < reach.x; i += 1u) {
                    sum += pixel(first, grid, 2u, i, j);
                }
            }
            sums[LARGEST + j] = sum;
        }
    }
    workgroupBarrier(); // the sums are there

    // ---- Elements ----
    let won = tail.w - p.first_winner;
    for (var at = lane; at < shape.x * shape.y; at += GROUP) {
        let i = at / shape.y;
        let j = at % shape.y;
        var v = 0.0;
        if i < shown.x && j < shown.y {
            v = pixel(first, grid, 0u, i, j);
        }
        if i < limits.x && winners[won + i] == j {
            v += sums[i];
        }
        if j < limits.y && winners[won + limits.x + j] == i {
            v += sums[LARGEST + j];
        }
        d_maps[head.x - p.first_element + at] = v;
    }
}
