//! Runs the suites.
fn main() -> guest::Result<()> {
    let image = guest::Image::prepare(std::path::Path::new("target/guest"))?;
    let mut vm = guest::Vm::boot(&image, std::path::Path::new("target/guest/run"))?;
    println!(
        "{}",
        vm.run("uname -a; nvme version; ls /dev/nvme-fabrics; ping -c1 10.0.2.2", std::time::Duration::from_secs(60))?
    );
    Ok(())
}
