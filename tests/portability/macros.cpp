// What <X11/Xlib.h> and <windows.h> define, defined before elcrec's headers. Standard libraries of their own accord
// guard against min and max; the others come first.
#include <algorithm>
#include <bit>
#include <cfloat>
#include <chrono>
#include <climits>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <variant>

#include <Eigen/Core>
#include <nlohmann/json.hpp>

#define min(a, b) (((a) < (b)) ? (a) : (b))
#define max(a, b) (((a) > (b)) ? (a) : (b))
#define None 0L
#define Bool int
#define Status int
#define True 1
#define False 0
#define Success 0
#define Always 2
#define Above 0
#define Below 1
#define Complex 0
#define Convex 2
#define small char
#define near
#define far
#define IN
#define OUT

#include "host.cpp"
