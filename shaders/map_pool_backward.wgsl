%% if native
enable f16;
%% endif
%% set first = 0 if pooling == "mean" else 1
// map_pool_backward.wgsl - from the gradients of scores that are means over similarity maps to those of the maps
// Computes   per pair, of its map M [l_q, l_c] and d, the gradient of its score; variant `pooling` = mean: dM = d / (l_q
//            l_c); max: d / l_q for the first of the largest elements of every row, 0 for the others; soft: d / l_q A_ij (1
//            + (M_ij - r_i) / temperature), A_i = softmax_j((M_ij - distance |i - j|) / temperature) over |i - j| <= band,
//            r_i = sum_j A_ij M_ij; 0 outside the band
// Twins      src/ops/map_pool_backward/ (definition, reference, launch), kernels/map_pool_backward.ptx
// Entry      map_pool_backward
//
// Shapes     maps (absent with mean), d_maps f32, packed; map_offsets [p + 1] u32, in elements; shapes [p, 2] u32: l_q,
//            l_c; d_scores [p] f32
// Layout     row-major, maps one behind the other; the bindings of maps and d_maps begin at element first_element
// Requires   temperature > 0
//
// Launch     one workgroup of 64 for each of the pairs first_pair .. end_pair, spread over x and y
// Mapping    mean: an invocation every 64th element; else eight invocations a row, eight rows at a time
// Memory     soft: 1,024 B of workgroup memory, max: 512 B: what invocations have found of their rows
// Sync       five barriers per eight rows
// Limits     none beyond the defaults
//
// Work       soft: about 20 FLOP and two exponentials an element
// Traffic    8 l_q l_c bytes per pair (mean: 4); maps are read again from cache
// Roofline   memory bound
// Measured   see benches/results
//
// Numerics   softmax with a running maximum, merged in a fixed tree; bound in error_bound of the twin
// Edges      a row without candidates gets zeros; an empty map has no element; NaN: no promise
struct Params {
    band: u32, distance: f32, temperature: f32, first_pair: u32, end_pair: u32, first_element: u32,
}
var<immediate> p: Params;

%% if pooling != "mean"
@group(0) @binding(0) var<storage, read> maps: array<f32>;
%% endif
@group(0) @binding(${first}) var<storage, read> map_offsets: array<u32>;
@group(0) @binding(${first + 1}) var<storage, read> shapes: array<vec2<u32>>;
@group(0) @binding(${first + 2}) var<storage, read> d_scores: array<f32>;
@group(0) @binding(${first + 3}) var<storage, read_write> d_maps: array<f32>;

const GROUP: u32 = 64u;
const LANES: u32 = 8u;
%% if pooling == "soft"
const LOWEST: f32 = -1.0e30;

// Running softmax: the maximum; the sums of weights and of weights x elements.
var<workgroup> running: array<vec4<f32>, GROUP>;

fn merge(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    let largest = max(a.x, b.x);
    return vec4<f32>(largest, a.yzw * exp(a.x - largest) + b.yzw * exp(b.x - largest));
}

fn steps(i: u32, j: u32) -> u32 {
    return max(i, j) - min(i, j);
}

fn logit(m: f32, steps: u32) -> f32 {
    return (m - p.distance * f32(steps)) / p.temperature;
}
%% elif pooling == "max"
const NO_WINNER: u32 = 0xffffffffu;
var<workgroup> largest: array<f32, GROUP>;
var<workgroup> winner: array<u32, GROUP>;
%% endif

@compute @workgroup_size(GROUP)
fn map_pool_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let pair = p.first_pair + group.x + group.y * groups.x;
    if pair >= p.end_pair {
        return;
    }
    let shape = shapes[pair];
    let map = map_offsets[pair] - p.first_element;
%% if pooling == "mean"
    let gradient = d_scores[pair] / f32(max(shape.x * shape.y, 1u));
    for (var at = lane; at < shape.x * shape.y; at += GROUP) {
        d_maps[map + at] = gradient;
    }
%% else
    let gradient = d_scores[pair] / f32(max(shape.x, 1u));
    let first = lane % LANES;
    for (var top = 0u; top < shape.x; top += GROUP / LANES) {
        let i = top + lane / LANES;
        let row = map + i * shape.y;
        // An invocation beyond the last row has no column.
        let columns = select(0u, shape.y, i < shape.x);
%% if pooling == "max"
        var own = 0.0;
        var at = NO_WINNER;
        for (var j = first; j < columns; j += LANES) {
            let m = maps[row + j];
            if at == NO_WINNER || m > own {
                own = m;
                at = j;
            }
        }
        largest[lane] = own;
        winner[lane] = at;
%% else
        var own = vec4<f32>(LOWEST, 0.0, 0.0, 0.0);
        for (var j = first; j < columns; j += LANES) {
            if steps(i, j) <= p.band {
                let m = maps[row + j];
                own = merge(own, vec4<f32>(logit(m, steps(i, j)), 1.0, m, 0.0));
            }
        }
        running[lane] = own;
%% endif
        workgroupBarrier(); // what every invocation has found is there
        for (var width = LANES / 2u; width > 0u; width /= 2u) {
            if first < width {
%% if pooling == "max"
                // Larger, or as large and before; a lane without a column has the last number of all.
                let other = lane + width;
                let larger = winner[other] != NO_WINNER
                    && (winner[lane] == NO_WINNER || largest[other] > largest[lane]);
                let before = largest[other] == largest[lane] && winner[other] < winner[lane];
                if larger || before {
                    largest[lane] = largest[other];
                    winner[lane] = winner[other];
                }
%% else
                running[lane] = merge(running[lane], running[lane + width]);
%% endif
            }
            workgroupBarrier(); // this level is merged
        }
%% if pooling == "max"
        let won = winner[lane - first];
        for (var j = first; j < columns; j += LANES) {
            d_maps[row + j] = select(0.0, gradient, j == won);
        }
%% else
        let sums = running[lane - first];
        for (var j = first; j < columns; j += LANES) {
            var d = 0.0;
            if steps(i, j) <= p.band {
                let m = maps[row + j];
                let weight = exp(logit(m, steps(i, j)) - sums.x) / sums.y;
                d = gradient * weight * (1.0 + (m - sums.z / sums.y) / p.temperature);
            }
            d_maps[row + j] = d;
        }
%% endif
        workgroupBarrier(); // it has been read
    }
%% endif
}
