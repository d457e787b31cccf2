# Source this for a shell in which this package runs on ROS 2 from wheels, as make built it:
#   . scripts/env.bash [kilted|jazzy]
# It leaves aside any other ROS 2 on the machine, whose libraries would not fit.
_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
_distro=${1:-kilted}
_venv=$_root/.venv
[ "$_distro" = kilted ] || _venv=$_root/.venv-$_distro
[ -z "$ROS_DISTRO" ] || unset LD_LIBRARY_PATH
unset PYTHONHOME PYTHONPATH COLCON_PREFIX_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
export ROS_DISTRO=$_distro VIRTUAL_ENV=$_venv PATH=$_venv/bin:$PATH
export AMENT_PREFIX_PATH=$_venv CMAKE_PREFIX_PATH=$_venv
if [ -f "$_root/.build/$_distro/install/setup.bash" ]; then
  . "$_root/.build/$_distro/install/setup.bash"
fi
unset _root _distro _venv
