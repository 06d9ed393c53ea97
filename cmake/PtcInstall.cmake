# PREFIX/bin/ptc, PREFIX/lib/ptc/libptc_mpi.so (ptc looks for it at ../lib/ptc),
# PREFIX/share/ptc/lib (the XML library of blocks), PREFIX/share/ptc/ptc.xsd (the grammar).
include(GNUInstallDirs)
if(TARGET ptc)
    install(TARGETS ptc RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
if(TARGET ptc_mpi)
    install(TARGETS ptc_mpi LIBRARY DESTINATION lib/ptc)
endif()
install(DIRECTORY ${CMAKE_SOURCE_DIR}/examples/lib DESTINATION ${CMAKE_INSTALL_DATADIR}/ptc OPTIONAL
        FILES_MATCHING PATTERN "*.xml")
install(FILES ${CMAKE_BINARY_DIR}/share/ptc/ptc.xsd DESTINATION ${CMAKE_INSTALL_DATADIR}/ptc)
