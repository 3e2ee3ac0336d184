use piecework_sim::real::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let peers: usize = a[2].parse().unwrap();
    let mbit: u64 = a[3].parse().unwrap();
    let holder: u64 = a[4].parse().unwrap();
    let mib: u64 = a[5].parse().unwrap();
    let start = if a[6] == "seed" { Start::Seed } else { Start::Origin };
    let line = |m: u64| Line { up_bits: m * 1_000_000, down_bits: m * 1_000_000 };
    let s = Setup { peer_count: peers, file_bytes: mib << 20, peer_line: line(mbit), holder_line: line(holder), start };
    let out = s.run(std::path::Path::new(&a[1]), std::path::Path::new("/dev/shm")).unwrap();
    let bytes = (mib << 20) as f64 * 1.047;
    let bound = bytes * 8.0 / (mbit.min(holder) as f64 * 1e6);
    println!("bound {bound:.2} s; completions {:?}", out.completions.iter().map(|d| (d.as_secs_f64() * 100.0).round() / 100.0).collect::<Vec<_>>());
    println!("last / bound {:.3}; holder sent {:.3} files", out.completions.last().unwrap().as_secs_f64() / bound, out.holder_sent_bytes as f64 / bytes);
}
