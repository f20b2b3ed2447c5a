include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(part COMPONENT elcrec)
if(NOT ELCREC_INSTALL)
  list(APPEND part EXCLUDE_FROM_ALL)
endif()
set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/elcrec)
target_include_directories(elcrec INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/elcrec DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} ${part}
        FILES_MATCHING PATTERN "*.hpp")
install(TARGETS elcrec EXPORT elcrec-targets)
install(EXPORT elcrec-targets NAMESPACE elcrec:: DESTINATION ${package_dir} ${part})

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/elcrec-config.cmake.in
                              ${PROJECT_BINARY_DIR}/elcrec-config.cmake INSTALL_DESTINATION ${package_dir})
# Before 1.0 a new minor version may break; headers fit every architecture.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/elcrec-config-version.cmake
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/elcrec-config.cmake ${PROJECT_BINARY_DIR}/elcrec-config-version.cmake
              ${CMAKE_CURRENT_LIST_DIR}/elcrec-cuda.cmake ${CMAKE_CURRENT_LIST_DIR}/elcrec-precompiled.cmake
        DESTINATION ${package_dir} ${part})
install(DIRECTORY ${CMAKE_CURRENT_LIST_DIR}/precompiled DESTINATION ${package_dir} ${part})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/elcrec ${part})
