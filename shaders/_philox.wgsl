<#
_philox.wgsl - Philox4x32-10 (Salmon and others, 2011), the random words of dropout; twins: src/ops/dropout/philox.rs,
kernels/_philox.ptx.

`philox()` declares
  philox(key, counter) -> vec4<u32>   four random words; all arithmetic is on integers, which wrap around
#>
%% macro philox()
// The high word of a product: WGSL has only the low one. Halves are 16 bits wide; no sum passes 2^32.
fn multiply_high(a: u32, b: u32) -> u32 {
    let a_low = a & 0xffffu;
    let a_high = a >> 16u;
    let b_low = b & 0xffffu;
    let b_high = b >> 16u;
    let middle = a_high * b_low + ((a_low * b_low) >> 16u);
    let other = a_low * b_high + (middle & 0xffffu);
    return a_high * b_high + (middle >> 16u) + (other >> 16u);
}

fn philox(key: vec2<u32>, counter: vec4<u32>) -> vec4<u32> {
    var k = key;
    var c = counter;
    for (var round = 0u; round < 10u; round += 1u) {
        let high_a = multiply_high(0xD2511F53u, c.x);
        let high_b = multiply_high(0xCD9E8D57u, c.z);
        c = vec4<u32>(high_b ^ c.y ^ k.x, 0xCD9E8D57u * c.z, high_a ^ c.w ^ k.y, 0xD2511F53u * c.x);
        k += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}
%% endmacro
